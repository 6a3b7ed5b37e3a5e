"""Checkpoints of a training: the newest and the one before, and whether a run may be continued from them."""

from pathlib import Path

import torch

from ..errors import KitError
from ..files import atomic_write
from .run_folder import clear_write_errors


def promote(folder: Path) -> None:
    """Rename the finished new.pt to last.pt; the one before is kept as previous.pt, in case a crash truncates this."""
    with clear_write_errors(folder):
        if (folder / "last.pt").exists():
            (folder / "last.pt").replace(folder / "previous.pt")
        (folder / "new.pt").replace(folder / "last.pt")


def save_checkpoint(folder: Path, checkpoint: dict) -> None:
    """Write a checkpoint as last.pt. Raises KitError where it cannot be written; the one before is kept."""
    with atomic_write(folder / "new.pt") as temporary:
        torch.save(checkpoint, temporary)
    promote(folder)


def load_checkpoint(folder: Path) -> dict | None:
    """The newest readable checkpoint of a run folder, or None for a new run.

    Raises:
        KitError: if there are checkpoints, but none can be read.
    """
    found = [p for p in (folder / "new.pt", folder / "last.pt", folder / "previous.pt") if p.exists()]
    for path in found:
        try:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises many kinds of errors for a truncated file
            print(f"{path} is unreadable ({type(error).__name__}); continuing from the checkpoint before", flush=True)
            continue
        if path.name == "new.pt":  # the run was killed between writing and renaming
            promote(folder)
        return checkpoint
    if found:
        raise KitError(f"no readable checkpoint is left in {folder}: move the folder away to start again")
    return None


def check_same(old: dict, new: dict) -> None:
    """Compare the descriptions of a checkpoint and of the training that is to continue it.

    A description may say which images are trained on, as "images"; that of a checkpoint from before this was recorded
    does not, and a line says that they cannot be compared.

    Raises:
        KitError: if they differ, naming what differs.
    """
    images, old = new.get("images"), dict(old)
    if images is not None:
        check_images(old.pop("images", None), images)
    for key in sorted((set(old) | set(new)) - {"images"}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            check_same(a, b)
        elif a != b:
            raise KitError(f"this run was started with {key} = {a}, not {b}: give another --out to start a new one")


def check_images(old: dict | None, new: dict) -> None:
    """Refuse to continue a run with other images, see `check_same`."""
    if old is None:
        print("note: this checkpoint does not record its training images: they are taken to be the same", flush=True)
        return
    if old == new:
        return
    what = "their names or pixels differ"
    for key in ("count", "held_out"):
        if old.get(key) != new[key]:
            what = f"{key.replace('_', ' ')} was {old.get(key)}, and is {new[key]}"
            break
    raise KitError(f"the training images have changed since this run was started ({what}): give another --out")
