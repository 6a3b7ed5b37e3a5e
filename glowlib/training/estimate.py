"""What a training will take, estimated from a few steps on random crops: `python -m glowlib.training … --dry-run`."""

import statistics
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from ..data.datasets import KNOWN, find_files, load_dataset, manifest
from ..device import choose_precision, own_device, world
from ..errors import KitError
from ..networks.base import parameter_count
from .config import TrainingConfig
from .gradient_accumulation import clear_memory_errors
from .optim import initial_network
from .profiles import load_profile, plan
from .state import TrainState
from .step import TrainingStep, checkpoint_activations

MEASURED = 3  # steps, after one to warm up


class Estimate(NamedTuple):
    """What one training step takes on a device."""

    seconds: float
    memory: float  # bytes, at its peak
    micro_batch: int  # crops per forward pass


class SavedTensors(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd saves for the backward pass, as a context manager.

    Attributes:
        peak: the most that is saved at once; `ignored` tensors, such as weights, do not count.
    """

    def __init__(self, ignored: list[torch.Tensor]):
        super().__init__(self.pack, self.unpack)
        self.ignored = {t.untyped_storage().data_ptr() for t in ignored}
        self.saved, self.backward_began, self.peak = {}, False, 0

    def __enter__(self) -> "SavedTensors":
        super().__enter__()
        return self

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.backward_began:  # of the micro-batch before: its tensors are freed, and their addresses used again
            self.saved, self.backward_began = {}, False
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.ignored:
            self.saved[storage.data_ptr()] = storage.nbytes()
            self.peak = max(self.peak, sum(self.saved.values()))
        return tensor

    def unpack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.backward_began = True
        return tensor


def measure(
    net: nn.Module, config: TrainingConfig, device: torch.device, micro_batch: int | None, compiled: str | None
) -> Estimate:
    """Time and memory of a training step, measured on random crops.

    On a GPU with the whole share of a batch. On other devices with as many crops as a 256×256 image holds, scaled;
    their memory is that of weights, gradients, EMA weights, the optimiser's two moments, and of what autograd saves.
    """
    cuda = device.type == "cuda"
    share = config.batch_size // world()
    crops = share if cuda else max(1, min(share, (256 // config.crop) ** 2))
    state = TrainState(net, config)
    training_step = TrainingStep(state, config, micro_batch, compiled)
    clean = torch.rand(crops, 3, config.crop, config.crop)
    noisy = clean + 0.1 * torch.randn_like(clean)
    saved = SavedTensors(list(net.parameters()))
    seconds = []
    for step in range(MEASURED + 1):
        began = time.perf_counter()
        if step == 0 and not cuda:
            with saved:
                training_step(noisy, clean)
        else:
            training_step(noisy, clean)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    micro = min(training_step.backward.micro_batch, share)
    memory = torch.cuda.max_memory_allocated() if cuda else 0
    if not cuda:
        memory = 5 * sum(p.nbytes for p in net.parameters()) + saved.peak * micro / min(micro, crops)
    return Estimate(statistics.median(seconds[1:]) * share / crops, memory, micro)


def readable_size(count: float) -> str:
    """A number of bytes as text."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def store_size(config: TrainingConfig) -> str:
    """Size of the store of decoded images, as text."""
    if config.data == "bundled":
        return readable_size(sum(image.nbytes for _, image in load_dataset("bundled")))
    files = find_files(config.data)
    if config.data in KNOWN:
        shapes = [(width, height) for height, width, _ in manifest(config.data).values()]
    else:
        shapes = [image_size(path) for path in files.values()]
    pairs = 6 * config.epoch * config.batch_size * config.crop**2 if config.pairs else 0
    missing = "" if files else f" ({config.data} is not in the data folder yet)"
    return readable_size(sum(3 * width * height for width, height in shapes) + pairs) + missing


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image file."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise KitError(f"cannot read {path} as an image: {error}") from error


def dry_run(
    profile: str | Path,
    model: str,
    *,
    device: str | torch.device | None = None,
    start: str | Path | None = None,
    micro_batch: int | None = None,
    recomputed: bool = False,
    compiled: str | None = None,
    **changes: Any,
) -> str:
    """The plan of a training as text: parameters, recipe, time, memory, disk. Nothing is trained or written.

    Args: those of `train`.
    """
    for name in ("out", "minutes", "until"):
        changes.pop(name, None)
    name, network, options, config = plan(load_profile(profile), model, start, **changes)
    device = own_device(device)
    with clear_memory_errors(device):
        net = initial_network(network, options, start).to(device)
        parameters = parameter_count(net)
        if recomputed:
            checkpoint_activations(net)
        seconds, memory, micro = measure(net, config, device, micro_batch, compiled)
    cuda = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if cuda else f"{device}, {torch.get_num_threads()} threads"
    source = f"prepared pairs {config.pairs}" if config.pairs else "fresh crops and noise"
    levels = "σ = {:g} to {:g}".format(*config.sigma) if config.level is None else f"σ = {config.level:g}"
    source += f", {config.share_drawn:.0%} synthetic" if config.share_drawn else ""
    source += "".join(f", later {share:.0%}" for share in config.restart_drawn)
    rates = f"{config.optimizer}, learning rate {config.lr:g} to {config.min_lr:g}, {config.warmup} steps of warm-up"
    for restart, lr in zip(config.restarts, config.restart_lr, strict=True):
        rates += f", again from {lr:g} at step {restart:,}" if restart < config.steps else ""
    rows = {
        "model": f"{name}: {network}, {parameters:,} parameters" + (f", starts from {start}" if start else ""),
        "data": f"{config.data}, {config.hold_out} images held out; {source}, {levels}",
        "recipe": f"{config.steps:,} steps × {config.batch_size} crops of {config.crop}²; {config.loss}; {rates}",
        "device": f"{world()} × {machine}; {str(choose_precision(device, config.precision)).removeprefix('torch.')}",
        "memory": f"about {readable_size(memory)} on each device, micro-batches of {micro}",
        "time": f"about {timedelta(seconds=round(seconds * config.steps))} ({seconds:.3g} s a step, "
        f"median of {MEASURED} steps on random crops)",
        "disk": f"{readable_size(3 * 16 * parameters + 4 * parameters)} for checkpoints and weights; "
        f"{store_size(config)} for the decoded images",
    }
    return "\n".join(f"{key:<8}{value}" for key, value in rows.items())
