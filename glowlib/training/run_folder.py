"""The folder of a training run: checkpoints, log and exported weights, never half-written, never mixed up."""

import csv
import json

import torch
from safetensors.torch import save as pack

from ..errors import KitError
from ..files import atomic_write, write_csv

VALIDATION_SIGMAS = (10, 25, 50)
SCORES = tuple(f"{score}_sigma{s}" for score in ("psnr", "ssim") for s in VALIDATION_SIGMAS)
COLUMNS = ("step", "loss", "lr", "images_per_second", *SCORES)


def rotate(folder):
    """The finished new.pt becomes last.pt; the one before stays as previous.pt, in case the machine tears this one."""
    if (folder / "last.pt").exists():
        (folder / "last.pt").replace(folder / "previous.pt")
    (folder / "new.pt").replace(folder / "last.pt")


def remove_leftovers(folder):
    """Remove what a killed process was writing. Only for a folder that no other process writes in."""
    for path in folder.glob("*.part"):
        path.unlink()


def save_checkpoint(folder, state):
    with atomic_write(folder / "new.pt") as temporary:
        torch.save(state, temporary)
    rotate(folder)


def load_checkpoint(folder):
    """The newest readable state of a run folder, or None for a new run."""
    found = [p for p in (folder / "new.pt", folder / "last.pt", folder / "previous.pt") if p.exists()]
    for path in found:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a torn file raises whatever its bytes happen to spell
            print(f"{path} is unreadable ({type(error).__name__}); going on from the one before", flush=True)
            continue
        if path.name == "new.pt":  # the run was killed between writing and renaming
            rotate(folder)
        return state
    if found:
        raise KitError(f"no readable checkpoint is left in {folder}: move the folder away to start again")
    return None


def check_same(old, new):
    """Refuse to go on with another configuration, naming what differs."""
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            check_same(a, b)
        elif a != b:
            raise KitError(f"this run was begun with {key} = {a}, not {b}: give another --out to start a new one")


def export(folder, network, description, name="model"):
    """Write what is shipped: <name>.safetensors (half precision, description inside); for a model config.json too."""
    weights = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    weights = {n: t.cpu().contiguous() for n, t in weights.items()}
    text = json.dumps(description, indent=1)
    packed = pack(weights, {"glowlib": json.dumps(description)})
    with atomic_write(folder / f"{name}.safetensors") as temporary:
        temporary.write_bytes(packed)
    if name == "model":
        with atomic_write(folder / "config.json") as temporary:
            temporary.write_text(text + "\n")


class Log:
    """The CSV log, and TensorBoard's where that is installed; on resuming, rows after the checkpoint are dropped."""

    def __init__(self, path, step):
        self.path = path
        rows = list(csv.DictReader(path.open())) if path.exists() else []
        self.rows = [row for row in rows if int(row["step"]) <= step]
        self.write()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(path.parent / "tensorboard", purge_step=step + 1)
        except ImportError:
            self.board = None

    def best(self):
        """The highest mean held-out PSNR so far."""
        return max((mean_psnr(row) for row in self.rows if row.get(SCORES[0])), default=float("-inf"))

    def add(self, **row):
        self.rows.append(row)
        self.write()
        if self.board:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, float(value), row["step"])

    def write(self):
        write_csv(self.path, COLUMNS, self.rows)


def mean_psnr(row):
    return sum(float(row[f"psnr_sigma{s}"]) for s in VALIDATION_SIGMAS) / len(VALIDATION_SIGMAS)
