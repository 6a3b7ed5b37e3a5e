"""The smallest network, its weights files, and how a trial is counted."""

import io
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import glowlib

OPTIONS = {"embed_dim": 4, "patch_size": 2, "window_size": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
HINTS = {"qk_scale": None, "global_residual": True, "noise_normalisation": False, "attention_reach": None}
HINTS |= {"training_size": 32}  # what no tensor shows
NANO = {"network": "sunet", "options": OPTIONS | HINTS}


def nano_network() -> torch.nn.Module:
    """The network with seeded weights, in eval mode."""
    torch.manual_seed(0)
    return glowlib.create_model("sunet", **NANO["options"]).eval()


def save_nano(path: Path) -> None:
    """Its weights file, with its description."""
    save_file(nano_network().state_dict(), path, {"glowlib": json.dumps(NANO)})


def weights_files() -> list[bytes]:
    """The weights as the kit, without its description, and as the original save them."""
    tensors = nano_network().state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        save_file(tensors, path)
        found = [path.read_bytes()]
    for content in (tensors, {"state_dict": tensors}):
        file = io.BytesIO()
        torch.save(content, file)
        found.append(file.getvalue())
    return found


def row(what: str, tried: int, right: int, refused: int = 0, note: str = "") -> dict:
    """A row of the table; what is neither right nor refused has escaped."""
    return {
        "what": what,
        "tried": tried,
        "right": right,
        "refused": refused,
        "escaped": tried - right - refused,
        "note": note,
    }
