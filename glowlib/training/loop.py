"""The training loop. Every training can be stopped anywhere, and continues with the same command.

All that a step needs is a function of (seed, step): its crops and noise (`glowlib.data.crops`), its learning rate, its
stochastic depth. A checkpoint is therefore weights, EMA weights, optimiser state and a step count, and a run that was
killed ends with the same weights as one that was not. On several GPUs, `torchrun --nproc_per_node N -m
glowlib.training …`: the processes share each batch, and the recipe stays the same.
"""

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..data.crops import NoisyCrops, PictureStore, batches
from ..data.datasets import iterate_dataset, stamp
from ..data.images import centre_crop
from ..data.metrics import psnr, ssim
from ..data.noise import add_noise
from ..data.paper_pairs import PreparedPairs, pairs_folder, read_pairs
from ..device import own_device, rank, world
from ..errors import KitError
from ..files import sha256, user_path
from .checkpoints import load_checkpoint
from .config import TrainingConfig
from .distributed import process_group, total, wait
from .gradient_accumulation import clear_memory_errors
from .lr_schedule import Schedule
from .optim import initial_network
from .profiles import load_profile, plan
from .run_folder import (
    SCORES,
    VALIDATION_SIGMAS,
    Log,
    clear_write_errors,
    export,
    half_precision,
    lock,
    mean_psnr,
    remove_leftovers,
)
from .state import TrainState
from .step import TrainingStep, checkpoint_activations

LOG_EVERY = 50  # steps

T = TypeVar("T")
Images = list[tuple[str, np.ndarray]]


def open_data(config: TrainingConfig, folder: Path) -> tuple[Dataset, Images]:
    """Open the training set, and split off the validation images: its last ones by name.

    Args:
        config: the recipe: data, pairs, hold_out, crop.
        folder: where the decoded images are kept, for every run over the same set.
    Returns:
        (samples to train on, [(name, uint8 array H×W×3)] to validate on).
    Raises:
        KitError: for a set that is not there, too few images, and images smaller than the crops.
    """
    store = PictureStore(iterate_dataset(config.data), folder / f"store-{Path(config.data).name}", stamp(config.data))
    count = len(store) - config.hold_out
    if count < 1:
        raise KitError(f"{config.data} has {len(store)} images, too few to hold out {config.hold_out}")
    held_out = [(store.names[i], store[i]) for i in range(count, len(store))]
    if config.pairs:
        pairs_stamp, images = read_pairs(config, {name for name, _ in held_out})
        pairs = PictureStore(images, folder / f"store-{pairs_folder(config).name}", pairs_stamp)
        largest = max((max(shape) for shape in pairs.shapes), default=0)
        if not 0 < largest <= config.crop < 2 * largest:
            raise KitError(
                f"the pairs in {pairs_folder(config)} have sides of {largest} pixels, the crop {config.crop}"
            )
        return PreparedPairs(pairs, config), held_out
    largest = max(config.crop, *config.grow_to, 0)
    for name, shape in zip(store.names, store.shapes, strict=True):
        if min(shape[:2]) < largest:
            raise KitError(f"{name} of {config.data} is smaller than the crop of {largest}: remove it, or lower crop")
    return NoisyCrops(store, config, count), held_out


def describe_images(samples: Dataset, held_out: Images) -> dict:
    """What identifies the images of a training: their number, a hash of names and pixels, the validation images."""
    hashes = [samples.store.sha256, *(sha256(np.ascontiguousarray(image).tobytes()) for _, image in held_out)]
    return {
        "count": len(samples.store),
        "sha256": sha256("".join(hashes).encode()),
        "held_out": [name for name, _ in held_out],
    }


@torch.inference_mode()
def validate(model: nn.Module, images: Images, side: int = 128) -> dict[str, str]:
    """Score a network on centre crops with `float` noise of seed 0, in float32; SSIM is `rgb`.

    With several processes, each scores a share of the images, and the means are over all of them.

    Args:
        model: the network, in eval mode.
        images: [(name, uint8 array H×W×3)].
        side: of the crops, pixels.
    Returns:
        {score of SCORES: its mean as text}, PSNR in dB.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(2, len(VALIDATION_SIGMAS), dtype=torch.float64)
    for name, image in images[rank() :: world()]:
        clean = centre_crop(image, side)
        for i, sigma in enumerate(VALIDATION_SIGMAS):
            noisy = torch.from_numpy(add_noise(clean, sigma, seed=0, name=name)).permute(2, 0, 1)[None]
            restored = model(noisy.float().to(device)).cpu()
            sums[:, i] += torch.tensor([psnr(clean, restored), ssim(clean, restored, "rgb")])
    sums = total(sums.to(device) if device.type == "cuda" else sums)  # NCCL needs the GPU; MPS has no float64
    means = (sums / len(images)).flatten().tolist()
    return dict(zip(SCORES, (f"{mean:.4f}" for mean in means), strict=True))


def train(
    profile: str | Path,
    model: str,
    *,
    out: str | Path | None = None,
    device: str | torch.device | None = None,
    minutes: float | None = None,
    until: int | None = None,
    start: str | Path | None = None,
    micro_batch: int | None = None,
    recomputed: bool = False,
    compiled: str | None = None,
    watch: Callable[[list[dict]], Any] | None = None,
    progress: bool = True,
    **changes: Any,
) -> Path:
    """Train one model of a profile; continue where an earlier call was stopped.

    Args:
        profile: a profile's name, or a YAML file.
        model: a model of the profile, or its network, see `resolve_model`.
        out: the run's folder; by default results/runs/<profile>/training/<model>.
        device: "cuda", "mps" or "cpu"; by default the best there is.
        minutes: stop after that many, with a checkpoint.
        until: stop at that step, with a checkpoint.
        start: a shipped model's name or a file of trained weights to begin with.
        micro_batch: crops per forward pass on a device; their gradients add up to those of the batch. For networks with
            BatchNorm (all but SUNet) the result differs from training without, see `TrainingStep`.
        recomputed: activation checkpointing: less memory, more time.
        compiled: a mode of torch.compile ("default", "reduce-overhead", …).
        watch: called with all rows of the log whenever one is added.
        progress: whether to show a progress bar.
        changes: fields of `TrainingConfig` that replace the profile's.
    Returns:
        The run's folder: model.safetensors and config.json (the EMA weights so far), best.safetensors (those with the
        highest mean PSNR on the validation images), log.csv, and the last two checkpoints.
    Raises:
        KitError: leaving earlier files alone, for values out of range, a folder that cannot be written or is in use,
            another configuration or other images than the folder's, a loss or weights that are not finite, and a
            device without the memory for one crop.
    """
    profile = load_profile(profile)
    start = os.path.expanduser(start) if start else None
    name, network, options, config = plan(profile, model, start, **changes)
    folder = user_path(out or Path("results/runs") / profile.name / "training" / name)
    device = own_device(device)
    check_limits(config, minutes, until, micro_batch)

    with clear_memory_errors(device), process_group(device), run_folder_lock(folder), ExitStack() as on_exit:
        samples, held_out = rank_zero_first(lambda: open_data(config, folder.parent))
        description = {"name": name, "network": network, "options": options, "training": asdict(config)}
        description |= {"start": str(start)} if start else {}
        description |= {"images": describe_images(samples, held_out)}
        description = json.loads(json.dumps(description))  # tuples become lists, as when read from a file

        torch.manual_seed(config.seed)
        state = TrainState(initial_network(network, options, start).to(device), config)
        checkpoint = rank_zero_first(lambda: load_checkpoint(folder))
        if checkpoint is not None:
            state.load(checkpoint, description)
        if recomputed:
            checkpoint_activations(state.net)
        schedule = Schedule(state.optimizer, config)
        training_step = TrainingStep(state, config, micro_batch, compiled)

        writes = rank() == 0
        if writes:
            remove_leftovers(folder)
            log = Log(folder / "log.csv", state.step)
        if state.step == config.steps and writes:  # killed after the last checkpoint, perhaps before its export
            export(folder, state.ema.module, {**description, "step": state.step})
        last = config.steps if until is None else min(until, config.steps)
        if state.step >= last:
            return folder

        began = last_logged = time.monotonic()
        loss_sum, crops, logged, saved = 0.0, 0, state.step, state.step
        shown = {"total": config.steps, "initial": state.step, "unit": "step", "mininterval": 5, "desc": name}
        bar = on_exit.enter_context(tqdm(**shown, disable=not (writes and progress)))
        for noisy, clean in batches(samples, config, state.step, rank(), world()):
            # ----- learning rate of this step, and its random numbers for stochastic depth
            schedule.step_update(state.step - state.step % config.epoch)
            torch.manual_seed((rank() << 56) + (config.seed << 32) + state.step)

            # ----- forward and backward pass, clipping, optimiser, EMA
            loss_sum = loss_sum + training_step(noisy, clean)
            crops += len(noisy) * world()
            bar.update()

            step = state.step
            late = minutes is not None and time.monotonic() - began > 60 * minutes
            done = step == last or any_process(late, step, device)
            validates = step % config.validate_every == 0 or step == config.steps
            saves = done or step % config.checkpoint_every == 0
            if not (validates or saves or step % LOG_EVERY == 0):
                continue

            # ----- log
            loss = float(total(loss_sum)) / (step - logged) / world()
            if not math.isfinite(loss):
                raise KitError(
                    f"the loss is {loss} near step {step}: lower lr, or train in float32; {folder} keeps step {saved}"
                )
            speed = crops / (time.monotonic() - last_logged)
            row = {"step": step, "loss": f"{loss:.6f}", "lr": f"{state.optimizer.param_groups[0]['lr']:.4g}"}
            row |= {"images_per_second": f"{speed:.1f}"}

            # ----- validate
            if validates:
                row |= validate(state.ema.module.eval(), held_out)
                if writes and mean_psnr(row) > log.best():
                    export(folder, state.ema.module, {**description, "step": step}, "best")
            if writes:
                log.add(**row)
                bar.set_postfix({"loss": row["loss"], "images/s": row["images_per_second"]})
                if watch:
                    watch(log.rows)
            loss_sum, crops, logged, last_logged = 0.0, 0, step, time.monotonic()

            # ----- save
            if saves:
                if not state.is_finite():
                    raise KitError(
                        f"weights are not finite at step {step}: lower lr, or train in float32; "
                        f"{folder} keeps step {saved}"
                    )
                half_precision(state.ema.module)  # no checkpoint takes the place of the last one that can be exported
                if writes:
                    state.save(folder, description)
                    export(folder, state.ema.module, {**description, "step": step})
                saved = step
            if done:
                break
    return folder


def check_limits(config: TrainingConfig, minutes: float | None, until: int | None, micro_batch: int | None) -> None:
    """Refuse arguments of `train` that are out of range, and a batch that the processes cannot share."""
    if micro_batch is not None and micro_batch < 1:
        raise KitError(f"--micro_batch is a number from 1 up, not {micro_batch}")
    if until is not None and until < 1:
        raise KitError(f"--until is a step from 1 up, not {until}")
    if minutes is not None and not minutes >= 0:
        raise KitError(f"--minutes is a number from 0 up, not {minutes}")
    for stage in config.crop_stages():
        if stage.batch_size % world():
            raise KitError(f"a batch of {stage.batch_size} cannot be shared equally among {world()} processes")


def run_folder_lock(folder: Path) -> AbstractContextManager:
    """Make the run's folder, and lock it in the process that writes."""
    with clear_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return lock(folder) if rank() == 0 else nullcontext()


def rank_zero_first(read: Callable[[], T]) -> T:
    """Call `read` in every process, in rank 0 first, because it may write files."""
    found = read() if rank() == 0 else None
    wait()
    return found if rank() == 0 else read()


def any_process(late: bool, step: int, device: torch.device) -> bool:
    """Whether it is too late for any process. Several processes exchange that every tenth step only."""
    if world() == 1:
        return late
    return step % 10 == 0 and total(torch.tensor(float(late), device=device)).item() > 0
