"""Trained networks: shipped models, weights files of this package or the original, the paper's own weights."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import KitError
from ..files import atomic_write, data_folder, sha256, shipped_folder
from . import NETWORKS, create_model, require_known
from .convert import from_original

DRIVE_ID = "19YrFIHw0todZ5O7c1H0XUOIFkF6V8WU1"  # the paper's own S-GLOWNet weights


class Models(NamedTuple):
    """Names: `networks` that create_model knows, `shipped` models that load_pretrained knows."""

    networks: list[str]
    shipped: list[str]


def list_models() -> Models:
    """Names of the networks and of the shipped models, each list sorted."""
    return Models(sorted(NETWORKS), sorted(p.parent.name for p in shipped_folder().glob("*/model.safetensors")))


def read_weights(path: Path) -> tuple[dict, dict | None]:
    """(tensors, description or None) of a weights file; the description is in files of this package alone.

    Code in a file is never run. Raises KitError for a file that cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                description = (file.metadata() or {}).get("glowlib")
                return {name: file.get_tensor(name) for name in file.keys()}, description and json.loads(description)  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise KitError(f"{path} is not a whole safetensors file: {error}") from error
    except Exception as error:  # damaged bytes can raise anything in torch.load
        reason = "it holds Python objects, which are never loaded" if "Weights only" in str(error) else "it is damaged"
        raise KitError(f"{path} is no weights file the kit can open: {reason}, or is of another kind") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return content, None


def load_pretrained(name_or_path: str | Path, **hints) -> nn.Module:
    """Load a trained network. Code in a file is never run.

    Args:
        name_or_path: a shipped model's name (see `list_models`), or a file: a .safetensors of this package, or a
            checkpoint of the original.
        hints: for a checkpoint of the original, see `from_original`.

    Returns:
        The network in eval mode, float32, on the CPU.

    Raises:
        KitError: a ValueError, for an unknown name, a missing or damaged file, and weights that do not fit.
    """
    path = Path(name_or_path)
    shipped = list_models().shipped
    if str(name_or_path) in shipped:
        path = shipped_folder() / str(name_or_path) / "model.safetensors"
    elif not path.exists():
        if path.suffix or len(path.parts) > 1:
            raise KitError(f"there is no file {path}; shipped models are: {', '.join(shipped) or 'none'}")
        require_known("shipped model", str(name_or_path), shipped)
    tensors, description = read_weights(path)
    if description is None:
        try:
            return from_original(tensors, **hints)
        except KitError as error:
            raise KitError(f"{path}: {error}") from error
    try:
        model = create_model(description["network"], **description["options"])
        model.load_state_dict(tensors)
    except (KeyError, TypeError, RuntimeError) as error:  # the description or the tensors are of another kind
        raise KitError(f"{path} does not hold the network it names: {str(error).splitlines()[-1].strip()}") from error
    return model.eval()


def download_pretrained(folder: str | Path | None = None) -> Path:
    """Download the paper's own S-GLOWNet weights from Google Drive, unless they are there already.

    No hash was published: the SHA-256 of the first download is printed and recorded beside the file, and later calls
    check it.

    Args:
        folder: where to keep them; by default `pretrained` in the data folder.

    Returns:
        Path of the weights file, for `load_pretrained`.

    Raises:
        KitError: a ValueError, if the download fails (the message says how to do it by hand) or the file has changed.
    """
    folder = Path(folder) if folder is not None else data_folder() / "pretrained"
    path, record = folder / "sglownet-original.pth", folder / "sglownet-original.pth.sha256"
    if not path.exists():
        by_hand = f"fetch https://drive.google.com/file/d/{DRIVE_ID}/view in a browser and save it as {path}"
        try:
            import gdown

            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                if gdown.download(id=DRIVE_ID, output=str(temporary), quiet=True) is None:
                    raise ConnectionError("gdown fetched nothing")
        except Exception as error:  # no network, an exceeded quota, a moved file: each has its own class
            reason = type(error.__cause__ if isinstance(error, KitError) else error).__name__
            raise KitError(f"the download failed ({reason}); {by_hand}") from error
    digest = sha256(path)
    if not record.exists():
        record.write_text(f"{digest}  {path.name}\n")
    elif record.read_text().split()[:1] != [digest]:
        raise KitError(f"{path} has changed since {record.name} was written: remove both and fetch it again")
    print(f"{path.name}: SHA-256 {digest}")
    return path
