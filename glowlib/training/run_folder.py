"""The folder of a training run: its lock, log and exported weights. No file in it is ever half-written."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as pack
from torch import nn

from ..errors import KitError
from ..files import atomic_write, locked, write_csv

VALIDATION_SIGMAS = (10, 25, 50)
SCORES = tuple(f"{score}_sigma{s}" for score in ("psnr", "ssim") for s in VALIDATION_SIGMAS)
COLUMNS = ("step", "loss", "lr", "images_per_second", *SCORES)

LOCK_WAIT = 8.0  # seconds; the data workers of a training that was killed hold its lock for up to five


@contextmanager
def clear_write_errors(folder: Path) -> Iterator[None]:
    """Context manager that turns an OSError into a KitError that names the folder."""
    try:
        yield
    except OSError as error:
        raise KitError(f"cannot write in {folder}: {error.strerror or error}") from error


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run folder for one training, see `files.locked`.

    Raises:
        KitError: if another training holds the folder.
    """
    with locked(folder, LOCK_WAIT, "another training is running in {path}: stop it, or give another --out"):
        yield


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a killed process. Only for a folder that no other process writes in."""
    with clear_write_errors(folder):
        for path in folder.glob("*.part"):
            path.unlink(missing_ok=True)


def half_precision(network: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that are exported: float16 where they are floating point, on the CPU.

    Raises:
        KitError: for values that are not finite, or exceed the range of float16.
    """
    tensors = {}
    for name, tensor in network.state_dict().items():
        half = tensor.half() if tensor.is_floating_point() else tensor
        if not half.isfinite().all():
            reason = "exceeds the range of half precision" if tensor.isfinite().all() else "is not finite"
            raise KitError(f"{name} {reason}, so the weights are not exported: lower lr, or train in float32")
        tensors[name] = half.cpu().contiguous()
    return tensors


def export(folder: Path, network: nn.Module, description: dict, name: str = "model") -> None:
    """Write the weights that others load: half precision, with the description inside; for "model" config.json, too.

    Args:
        folder: where to.
        network: the network.
        description: what `load_pretrained` and the model card read.
        name: of the file, without .safetensors.
    Raises:
        KitError: see `half_precision`; and where the files cannot be written.
    """
    packed = pack(half_precision(network), {"glowlib": json.dumps(description)})
    with atomic_write(folder / f"{name}.safetensors") as temporary:
        temporary.write_bytes(packed)
    if name == "model":
        with atomic_write(folder / "config.json") as temporary:
            temporary.write_text(json.dumps(description, indent=1) + "\n")


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv; none if there is no file.

    Raises:
        KitError: for a damaged file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            int(row["step"]), [float(row[name] or 0) for name in COLUMNS]
            if None in row or None in row.values():
                raise ValueError("a row of another length")
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise KitError(f"cannot read {path} ({type(error).__name__}: {error}): move it away to continue") from error
    return rows


class Log:
    """The CSV log, and TensorBoard's where that is installed. On resuming, rows after the checkpoint are dropped."""

    def __init__(self, path: Path, step: int):
        """
        Args:
            path: of the CSV file.
            step: of the checkpoint.
        """
        self.path = path
        self.rows = [row for row in read_log(path) if int(row["step"]) <= step]
        self.write()
        try:
            from torch.utils.tensorboard import SummaryWriter

            with clear_write_errors(path.parent):
                self.board = SummaryWriter(path.parent / "tensorboard", purge_step=step + 1)
        except ImportError:
            self.board = None

    def best(self) -> float:
        """The highest mean validation PSNR so far, dB."""
        return max((mean_psnr(row) for row in self.rows if row.get(SCORES[0])), default=float("-inf"))

    def add(self, **row: Any) -> None:
        """Append a row; its keys are COLUMNS."""
        self.rows.append(row)
        self.write()
        if self.board:
            for name, value in row.items():
                if name != "step":
                    self.board.add_scalar(name, float(value), row["step"])

    def write(self) -> None:
        write_csv(self.path, COLUMNS, self.rows)


def mean_psnr(row: dict) -> float:
    """Mean of a row's validation PSNRs over the noise levels, dB."""
    return sum(float(row[f"psnr_sigma{s}"]) for s in VALIDATION_SIGMAS) / len(VALIDATION_SIGMAS)
