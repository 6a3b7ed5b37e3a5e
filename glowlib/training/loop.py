"""Training from a profile, resumable anywhere.

Whatever a step needs is a function of (seed, step): its crops and noise (`glowlib.data.crops`), its
learning rate, its dropped paths. A checkpoint is therefore weights, averages, moments and a step count, and a
run that was killed goes on as if it had not been. On several GPUs: `torchrun --nproc_per_node N -m glowlib.training …`;
the batch is then shared among them, and the recipe stays the same.
"""

import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import torch
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from ..data.crops import NoisyCrops, PictureStore, batches
from ..data.datasets import iterate_dataset, stamp
from ..data.images import centre_crop
from ..data.metrics import psnr, ssim
from ..data.noise import add_noise
from ..data.paper_pairs import PreparedPairs, pairs_folder, read_pairs
from ..device import choose_precision, own_device, rank, world
from ..errors import KitError
from .distributed import process_group, total, wait
from .optim import Schedule, begin, make_optimizer
from .profiles import load_profile, plan
from .run_folder import (
    SCORES,
    VALIDATION_SIGMAS,
    Log,
    check_same,
    export,
    load_checkpoint,
    mean_psnr,
    remove_leftovers,
    save_checkpoint,
)
from .step import Backward, checkpoint_activations

LOG_EVERY = 50  # steps


def open_data(config, folder):
    """(samples to train on, held-out pictures): the held-out ones are the last of the set by name.

    folder: where the decoded pictures are kept, for every run over the same set.
    """
    store = PictureStore(iterate_dataset(config.data), folder / f"store-{config.data}", stamp(config.data))
    count = len(store) - config.hold_out
    if count < 1:
        raise KitError(f"{config.data} has {len(store)} pictures, too few to hold out {config.hold_out}")
    held_out = [(store.names[i], store[i]) for i in range(count, len(store))]
    if config.pairs:
        marks, pictures = read_pairs(config, {name for name, _ in held_out})
        pairs = PictureStore(pictures, folder / f"store-{pairs_folder(config).name}", marks)
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


@torch.inference_mode()
def validate(model, pictures, side=128):
    """{score of SCORES: its mean as text} over centre crops: `float` noise of seed 0, restored in float32, SSIM rgb.

    The pictures are shared among the processes, and the means are over all of them.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(2, len(VALIDATION_SIGMAS), dtype=torch.float64)
    for name, picture in pictures[rank() :: world()]:
        clean = centre_crop(picture, side)
        for i, sigma in enumerate(VALIDATION_SIGMAS):
            noisy = torch.from_numpy(add_noise(clean, sigma, seed=0, name=name)).permute(2, 0, 1)[None]
            restored = model(noisy.float().to(device)).cpu()
            sums[:, i] += torch.tensor([psnr(clean, restored), ssim(clean, restored, "rgb")])
    means = total(sums.to(device)) / len(pictures)
    return dict(zip(SCORES, (f"{value:.4f}" for value in means.flatten().tolist()), strict=True))


def train(
    profile,
    model,
    *,
    out=None,
    device=None,
    minutes=None,
    until=None,
    start=None,
    micro_batch=None,
    recomputed=False,
    compiled=None,
    watch=None,
    progress=True,
    **changes,
):
    """Train one model of a profile; go on where an earlier call was stopped.

    profile: a name or a YAML file. model: as for `plan`. out: the run's folder, by default
    results/runs/<profile>/training/<model>. minutes, until: stop after that long, or at that step, to be resumed.
    start: a trained model (shipped name or file) whose weights the training begins with. micro_batch: crops at once on
    a device; their gradients add up to the batch's. recomputed: save memory by computing activations twice. compiled: a
    mode of torch.compile ("default", "reduce-overhead", ...). watch: called with the log's rows at each new one.
    changes: fields of `TrainingConfig`. Returns the folder: model.safetensors and config.json (averaged weights so
    far), best.safetensors (those with the highest mean PSNR on the held-out pictures), log.csv, last.pt.
    Raises KitError, leaving earlier files alone, for a loss that is not finite, an unwritable
    folder, a folder of another configuration, or a device without the memory for one crop.
    """
    profile = load_profile(profile)
    name, network, options, config = plan(profile, model, start, **changes)
    folder = Path(out or Path("results/runs") / profile.name / "training" / name)
    device = own_device(device)
    if micro_batch is not None and micro_batch < 1:
        raise KitError(f"--micro_batch is a number from 1 up, not {micro_batch}")
    for *_, count in config.stretches():
        if count % world():
            raise KitError(f"a batch of {count} cannot be shared equally among {world()} processes")
    description = {"name": name, "network": network, "options": options, "training": asdict(config)}
    description |= {"start": str(start)} if start else {}
    description = json.loads(json.dumps(description))  # tuples become lists, as they will be when read back

    with process_group(device):
        samples, held_out = rank_zero_first(lambda: make_folders(folder, config))
        torch.manual_seed(config.seed)
        net = begin(network, options, start).to(device)
        ema = ModelEmaV3(net, decay=config.ema, use_warmup=True)
        optimizer = make_optimizer(net, config)
        schedule = Schedule(optimizer, config)
        precision = choose_precision(device, config.precision)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
        parts = {"model": net, "ema": ema.module, "optimizer": optimizer, "scaler": scaler}

        step = 0
        state = rank_zero_first(lambda: load_checkpoint(folder))
        if state is not None:
            check_same(state["description"], description)
            step = state["step"]
            for key, part in parts.items():
                part.load_state_dict(state[key])
        if recomputed:
            checkpoint_activations(net)
        backward = Backward(net, config, precision, scaler, micro_batch, compiled)
        log = None
        if rank() == 0:
            remove_leftovers(folder)
            log = Log(folder / "log.csv", step)

        def save():
            if not all(p.isfinite().all() for p in net.parameters()):
                raise KitError(
                    f"weights are not finite at step {step}: lower lr, or train in float32; {folder} keeps step {saved}"
                )
            if log:
                state = {key: part.state_dict() for key, part in parts.items()}
                save_checkpoint(folder, {"step": step, "description": description, **state})
                export(folder, ema.module, {**description, "step": step})

        if step == config.steps and log:  # killed after the last checkpoint, perhaps before its export
            export(folder, ema.module, {**description, "step": step})
        last = config.steps if until is None else min(until, config.steps)
        net.train()
        began = last_logged = time.monotonic()
        loss_sum, summed, crops, saved = 0.0, 0, 0, step
        quiet = not (log and progress)
        shown = {"total": config.steps, "initial": step, "unit": "step", "mininterval": 5, "desc": name}
        with tqdm(**shown, disable=quiet) as bar:
            for noisy, clean in batches(samples, config, step, rank(), world()) if step < last else ():
                torch.manual_seed((rank() << 56) + (config.seed << 32) + step)  # dropped paths
                schedule.step_update(step - step % config.epoch)
                loss_sum, summed = loss_sum + backward(noisy, clean), summed + 1
                crops += len(noisy) * world()
                scaler.unscale_(optimizer)
                if config.clip:
                    nn.utils.clip_grad_norm_(net.parameters(), config.clip)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                ema.update(net, step=step)
                bar.update()

                done = step == last or agreed(minutes is not None and time.monotonic() - began > 60 * minutes, step)
                validates = step % config.validate_every == 0 or step == config.steps
                if done or validates or step % LOG_EVERY == 0 or step % config.checkpoint_every == 0:
                    mean = float(total(loss_sum)) / summed / world()
                    if not math.isfinite(mean):
                        raise KitError(
                            f"the loss is {mean} near step {step}: lower lr, or train in float32; "
                            f"{folder} keeps step {saved}"
                        )
                    speed = crops / (time.monotonic() - last_logged)
                    row = {"step": step, "loss": f"{mean:.6f}", "lr": f"{optimizer.param_groups[0]['lr']:.4g}"}
                    row["images_per_second"] = f"{speed:.1f}"
                    if validates:
                        row |= validate(ema.module.eval(), held_out)
                    if log:
                        if validates and mean_psnr(row) > log.best():
                            export(folder, ema.module, {**description, "step": step}, "best")
                        log.add(**row)
                        bar.set_postfix({"loss": row["loss"], "images/s": row["images_per_second"]})
                        if watch:
                            watch(log.rows)
                    loss_sum, summed, crops, last_logged = 0.0, 0, 0, time.monotonic()
                    if done or step % config.checkpoint_every == 0:
                        save()
                        saved = step
                if done:
                    break
    return folder


def make_folders(folder, config):
    """The run's folder, and beside it the decoded pictures."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return open_data(config, folder.parent)
    except OSError as error:
        raise KitError(f"cannot write in {folder}: {error}") from error


def rank_zero_first(read):
    """What `read` returns, in each process; process 0, which may change files as it reads, comes first."""
    found = read() if rank() == 0 else None
    wait()
    return found if rank() == 0 else read()


def agreed(wish, step):
    """Whether any process wishes to stop; asked every tenth step if there are several."""
    if world() == 1:
        return wish
    return step % 10 == 0 and total(torch.tensor(float(wish), device=own_device())).item() > 0
