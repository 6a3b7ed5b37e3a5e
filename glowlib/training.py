"""Training from a profile, resumable anywhere: `python -m glowlib.training --profile small --model sglownet`.

Whatever a step needs is a function of (seed, step): its crops and noise (`glowlib.batches`), its
learning rate, its dropped paths. A checkpoint is therefore weights, averages, moments and a step count, and a
run that was killed goes on as if it had not been.
"""

import argparse
import csv
import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save as pack
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import nn
from tqdm.auto import tqdm

from .batches import PictureStore, batches
from .datasets import load_dataset
from .device import choose_device, choose_precision
from .errors import KitError, exit_clearly
from .metrics import psnr
from .models import create_model, known
from .noise import add_noise
from .profile import list_profiles, load_profile

VALIDATION_SIGMAS = (10, 25, 50)
LOG_EVERY = 50  # steps
COLUMNS = ("step", "loss", "lr", "images_per_second", *(f"psnr_sigma{s}" for s in VALIDATION_SIGMAS))


def charbonnier(restored, clean):
    """A smooth L1 (https://arxiv.org/abs/1710.01992): the mean of sqrt(error² + 0.001²)."""
    return torch.sqrt((restored - clean) ** 2 + 1e-6).mean()


def make_optimizer(model, config):
    """Adam or AdamW; only matrices and kernels decay: no biases, norms or position tables."""
    groups = [
        {"params": [p for n, p in model.named_parameters() if matrix(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in model.named_parameters() if not matrix(n, p)], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.lr, betas=config.betas)


def matrix(name, parameter):
    return parameter.ndim in (2, 4) and not name.endswith("relative_position_bias_table")


def make_schedule(optimizer, config):
    """Linear warm-up, then one cosine down to min_lr; the first step's rate is lr / warmup, not 0."""
    warmup = {"warmup_t": config.warmup, "warmup_lr_init": config.lr / max(1, config.warmup), "warmup_prefix": True}
    span = max(1, config.steps - config.warmup)
    return CosineLRScheduler(optimizer, span, lr_min=config.min_lr, t_in_epochs=False, **warmup)


def split(config):
    """(training pictures, held-out pictures) of the configured set; the held-out ones are its last by name."""
    pictures = load_dataset(config.data)
    if len(pictures) <= config.hold_out:
        raise KitError(f"{config.data} has {len(pictures)} pictures, too few to hold out {config.hold_out}")
    pictures = [(n, p if p.ndim == 3 else np.repeat(p[..., None], 3, 2)) for n, p in pictures]
    small = [n for n, p in pictures if min(p.shape[:2]) < config.crop]
    if small:
        raise KitError(
            f"{small[0]} of {config.data} is smaller than the crop of {config.crop}: remove it, or lower crop"
        )
    at = len(pictures) - config.hold_out
    return pictures[:at], pictures[at:]


@torch.inference_mode()
def validate(model, pictures, side=128):
    """Mean PSNR over centre crops for each of VALIDATION_SIGMAS, `float` noise of seed 0, float32."""
    device = next(model.parameters()).device
    scores = []
    for sigma in VALIDATION_SIGMAS:
        total = 0
        for name, picture in pictures:
            top, left = ((n - min(n, side)) // 2 for n in picture.shape[:2])
            clean = picture[top : top + side, left : left + side]
            noisy = torch.from_numpy(add_noise(clean, sigma, seed=0, name=name)).permute(2, 0, 1)[None]
            total += psnr(clean, model(noisy.float().to(device)).cpu())
        scores.append(total / len(pictures))
    return scores


def write_beside(path, write):
    """Let `write` make a file beside `path`, flush it to disk and rename it: `path` is never half-written."""
    beside = path.with_name(path.name + ".part")
    try:
        write(beside)
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        beside.unlink(missing_ok=True)
        raise KitError(f"cannot write {path}: {error}; the state before it is kept") from error


def rotate(folder):
    """The finished new.pt becomes last.pt; the one before stays as previous.pt, in case the machine tears this one."""
    if (folder / "last.pt").exists():
        (folder / "last.pt").replace(folder / "previous.pt")
    (folder / "new.pt").replace(folder / "last.pt")


def save_checkpoint(folder, state):
    write_beside(folder / "new.pt", lambda path: torch.save(state, path))
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


def export(folder, network, description):
    """Write what is shipped: model.safetensors (half precision, description inside) and config.json."""
    weights = {n: t.half() if t.is_floating_point() else t for n, t in network.state_dict().items()}
    weights = {n: t.cpu().contiguous() for n, t in weights.items()}
    text = json.dumps(description, indent=1)
    packed = pack(weights, {"glowlib": json.dumps(description)})
    write_beside(folder / "model.safetensors", lambda path: path.write_bytes(packed))
    write_beside(folder / "config.json", lambda path: path.write_text(text + "\n"))


class Log:
    """The CSV log; on resuming, rows after the checkpoint's step are dropped."""

    def __init__(self, path, step):
        self.path = path
        rows = list(csv.DictReader(path.open())) if path.exists() else []
        self.rows = [row for row in rows if int(row["step"]) <= step]
        self.write()

    def add(self, **row):
        self.rows.append(row)
        self.write()

    def write(self):
        def dump(path):
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(self.rows)

        write_beside(self.path, dump)


def plan(profile, model, **changes):
    """(name, network, options, recipe) of the model that `model` means in a profile.

    model: a name in the profile's list, or a network that one model there is of.
    changes: fields of `TrainingConfig`; those that are None are ignored.
    """
    meant = [n for n, options in profile.models.items() if model in (n, options["network"])]
    if len(meant) != 1:
        known("model to train", model, list(profile.models))
        raise KitError(f"{model!r} means several models: {', '.join(meant)}; name one")
    options = dict(profile.models[meant[0]])
    recipe = replace(profile.training, **{k: v for k, v in changes.items() if v is not None})
    return meant[0], options.pop("network"), options, recipe


def train(profile, model, *, out=None, device=None, minutes=None, **changes):
    """Train one model of a profile; go on where an earlier call was stopped.

    profile: a name or a YAML file. model: as for `plan`. out: the run's folder, by default
    results/runs/<profile>/training/<model>. minutes: stop after that long, to be resumed. changes: fields of
    `TrainingConfig`. Returns the folder: model.safetensors and config.json (averaged weights so far), log.csv,
    last.pt. Raises KitError, leaving earlier files alone, for a loss that is not finite, an unwritable
    folder, or a folder of another configuration.
    """
    profile = load_profile(profile)
    name, network, options, config = plan(profile, model, **changes)
    folder = Path(out or Path("results/runs") / profile.name / "training" / name)
    device = choose_device(device)
    precision = choose_precision(device, config.precision)
    description = {"name": name, "network": network, "options": options, "training": asdict(config)}
    description = json.loads(json.dumps(description))  # tuples become lists, as they will be when read back

    training_pictures, held_out = split(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        store = PictureStore(training_pictures, folder.parent / f"store-{config.data}-{config.hold_out}")
    except OSError as error:
        raise KitError(f"cannot write in {folder}: {error}") from error

    torch.manual_seed(config.seed)
    net = create_model(network, **options).to(device)
    ema = ModelEmaV3(net, decay=config.ema, use_warmup=True)
    optimizer = make_optimizer(net, config)
    schedule = make_schedule(optimizer, config)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == torch.float16)
    loss_of = charbonnier if config.loss == "charbonnier" else nn.functional.l1_loss

    step = 0
    state = load_checkpoint(folder)
    if state is not None:
        check_same(state["description"], description)
        step = state["step"]
        net.load_state_dict(state["model"])
        ema.module.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    log = Log(folder / "log.csv", step)

    if step == config.steps:  # killed after the last checkpoint, perhaps before its export
        export(folder, ema.module, {**description, "step": step})

    def save():
        if not all(p.isfinite().all() for p in net.parameters()):
            raise KitError(
                f"weights are not finite at step {step}: lower lr, or train in float32; {folder} keeps step {saved}"
            )
        parts = {"model": net, "ema": ema.module, "optimizer": optimizer, "scaler": scaler}
        state = {key: part.state_dict() for key, part in parts.items()}
        save_checkpoint(folder, {"step": step, "description": description, **state})
        export(folder, ema.module, {**description, "step": step})

    def forward(noisy):
        autocast = torch.autocast(device.type, precision) if precision != torch.float32 else nullcontext()
        with autocast:
            return net(noisy).float()

    net.train()
    began = last_logged = time.monotonic()
    loss_sum, summed = 0.0, 0
    saved = step
    progress = tqdm(total=config.steps, initial=step, unit="step", mininterval=5, desc=name)
    for noisy, clean in batches(store, config, start=step):
        torch.manual_seed((config.seed << 32) + step)  # dropped paths
        schedule.step_update(step)
        loss = loss_of(forward(noisy.to(device)), clean.to(device))
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        if config.clip:
            nn.utils.clip_grad_norm_(net.parameters(), config.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        ema.update(net, step=step)
        loss_sum, summed = loss_sum + loss.detach(), summed + 1
        progress.update()

        done = step == config.steps
        late = minutes is not None and time.monotonic() - began > 60 * minutes
        periods = (LOG_EVERY, config.validate_every, config.checkpoint_every)
        if done or late or any(step % period == 0 for period in periods):
            mean = float(loss_sum) / summed
            if not math.isfinite(mean):
                raise KitError(
                    f"the loss is {mean} near step {step}: lower lr, or train in float32; {folder} keeps step {saved}"
                )
            row = {"step": step, "loss": f"{mean:.6f}", "lr": f"{optimizer.param_groups[0]['lr']:.4g}"}
            row["images_per_second"] = f"{summed * config.batch_size / (time.monotonic() - last_logged):.1f}"
            if step % config.validate_every == 0 or done:
                scores = validate(ema.module.eval(), held_out)
                row |= {f"psnr_sigma{s}": f"{v:.3f}" for s, v in zip(VALIDATION_SIGMAS, scores, strict=True)}
            log.add(**row)
            progress.set_postfix(loss=row["loss"])
            loss_sum, summed, last_logged = 0.0, 0, time.monotonic()
            if step % config.checkpoint_every == 0 or done or late:
                save()
                saved = step
        if late:
            break
    progress.close()
    return folder


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib.training", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="small", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--model", required=True, help="a model the profile names, or its network")
    parser.add_argument("--out", help="the run's folder; an unfinished run there is continued")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    parser.add_argument("--minutes", type=float, help="stop after that many minutes; run again to go on")
    parser.add_argument("--steps", type=int, help="length of the whole training, in place of the profile's")
    parser.add_argument("--seed", type=int, help="in place of the profile's")
    args = vars(parser.parse_args(argv))
    print("trained:", train(args.pop("profile"), args.pop("model"), **args))


if __name__ == "__main__":
    main()
