"""What a training will take, before it is begun: a few steps on random crops, measured and scaled up."""

import statistics
import time
from datetime import timedelta

import torch
from PIL import Image

from ..data.datasets import KNOWN, find_files, load_dataset, manifest
from ..device import choose_precision, own_device, world
from ..networks.base import parameter_count
from .optim import begin, make_optimizer
from .profiles import load_profile, plan
from .step import Backward, checkpoint_activations

MEASURED = 3  # steps, after one to warm up


def size(bytes_):
    return f"{bytes_ / 1e9:.2f} GB" if bytes_ >= 1e8 else f"{bytes_ / 1e6:.1f} MB"


def measure(net, config, device, micro_batch, compiled):
    """(seconds of a step, bytes of memory at its peak, crops at once) of training on random crops.

    On a GPU the whole share of a batch is tried; on a CPU as many crops as a 256×256 picture holds, scaled: its memory
    is that of weights, gradients, averages, moments, and the tensors that the backward pass needs.
    """
    cuda = device.type == "cuda"
    share = config.batch_size // world()
    crops = share if cuda else max(1, min(share, (256 // config.crop) ** 2))
    optimizer = make_optimizer(net, config)
    precision = choose_precision(device, config.precision)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    backward = Backward(net, config, precision, scaler, micro_batch, compiled)
    clean = torch.rand(crops, 3, config.crop, config.crop)
    noisy = clean + 0.1 * torch.randn_like(clean)
    kept, seconds = {}, []

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for step in range(MEASURED + 1):
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(keep if step == 1 else lambda t: t, lambda t: t):
            backward(noisy, clean)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    second = statistics.median(seconds[1:]) * share / crops
    if cuda:
        average = sum(p.nbytes for p in net.parameters())
        return second, torch.cuda.max_memory_allocated() + average, backward.micro_batch
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}
    activations = sum(count for place, count in kept.items() if place not in weights)
    return (
        second,
        5 * sum(p.nbytes for p in net.parameters()) + activations / crops * backward.micro_batch,
        backward.micro_batch,
    )


def decoded(config):
    """Bytes of the memory-mapped pictures, as text."""
    if config.data == "bundled":
        return size(sum(picture.nbytes for _, picture in load_dataset("bundled")))
    files = find_files(config.data)
    if config.data in KNOWN:
        shapes = [(width, height) for height, width, _ in manifest(config.data).values()]
    else:
        shapes = [Image.open(path).size for path in files.values()]
    pairs = 6 * config.epoch * config.batch_size * config.crop**2 if config.pairs else 0
    missing = "" if files else f" ({config.data} is not in the data folder yet)"
    return size(sum(3 * width * height for width, height in shapes) + pairs) + missing


def dry_run(profile, model, *, device=None, start=None, micro_batch=None, recomputed=False, compiled=None, **changes):
    """The plan of a training as text: parameters, steps, time, memory, disk. Arguments: those of `train`."""
    for name in ("out", "minutes", "until"):
        changes.pop(name, None)
    name, network, options, config = plan(load_profile(profile), model, start, **changes)
    device = own_device(device)
    net = begin(network, options, start).to(device)
    parameters = parameter_count(net)
    if recomputed:
        checkpoint_activations(net)
    seconds, memory, micro = measure(net, config, device, micro_batch, compiled)
    what = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}, {torch.get_num_threads()} threads"
    )
    source = f"prepared pairs {config.pairs}" if config.pairs else "fresh crops and noise"
    levels = "σ = {:g} to {:g}".format(*config.sigma) if config.level is None else f"σ = {config.level:g}"
    source += f", {config.share_drawn:.0%} drawn" if config.share_drawn else ""
    rates = f"{config.optimizer}, rate {config.lr:g} to {config.min_lr:g}, {config.warmup} steps of warm-up"
    for restart, lr in zip(config.restarts, config.restart_lr, strict=True):
        rates += f", again from {lr:g} at step {restart:,}" if restart < config.steps else ""
    source += "".join(f", later {share:.0%}" for share in config.restart_drawn)
    rows = {
        "model": f"{name}: {network}, {parameters:,} parameters" + (f", begins with {start}" if start else ""),
        "data": f"{config.data}, {config.hold_out} pictures held out; {source}, {levels}",
        "recipe": f"{config.steps:,} steps × {config.batch_size} crops of {config.crop}²; {config.loss}; {rates}",
        "device": f"{world()} × {what}; {str(choose_precision(device, config.precision)).removeprefix('torch.')}",
        "memory": f"about {size(memory)} on each device, {micro} crops at once",
        "time": f"about {timedelta(seconds=round(seconds * config.steps))} ({seconds:.3g} s a step, "
        f"median of {MEASURED} steps on random crops)",
        "disk": f"{size(3 * 16 * parameters + 4 * parameters)} for checkpoints and weights; "
        f"{decoded(config)} for the decoded pictures",
    }
    return "\n".join(f"{key:<8}{value}" for key, value in rows.items())
