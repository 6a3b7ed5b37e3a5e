"""How fast the networks are on this machine, beside its own peak, and what memory they take: `make bench`."""

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import psutil
import torch
from tqdm.auto import tqdm

from .cost import flops
from .device import choose_device, has_fast_bfloat16
from .errors import KitError, exit_clearly
from .inference import denoise
from .models import create_model
from .plain import plainly
from .profile import TrainingConfig, load_profile
from .recipe import loss_of, make_optimizer

SIDE = 256  # pixels of the square that forward and training step are measured on
PICTURE = (512, 768)
BUSY = 0.1  # share of the machine that others may use before a run is refused
TASKS = ("forward", "train step", "picture")
COLUMNS = ["model", "size", "task", "form", "precision", "device", "seconds", "low", "high", "rounds", "peak", "share"]


@dataclass(frozen=True)
class Case:
    """One thing to measure: a network of a profile, what it does, and how it computes."""

    model: str
    size: str  # the profile: "paper" or "small"
    task: str  # one of TASKS
    form: str = "kit"  # or "plain", the yardstick
    precision: str = "float32"
    device: str = "cpu"

    def network(self):
        options = {k: v for k, v in load_profile(self.size).models[self.model].items() if k != "training"}
        torch.manual_seed(0)
        return create_model(options.pop("network"), **options).to(self.device)

    def prepare(self):
        """A function that does the task once."""
        model, precision = self.network(), getattr(torch, self.precision)
        form = plainly if self.form == "plain" else nullcontext
        shape = PICTURE if self.task == "picture" else (SIDE, SIDE)
        image = torch.rand(1, 3, *shape, device=self.device)
        if self.task == "train step":
            return training_step(model.train(), image, precision, form)
        model = model.eval().to(precision)
        run = (lambda: denoise(model, image)) if self.task == "picture" else (lambda: model(image))

        def task():
            with form(), torch.no_grad():
                run()

        return task


def training_step(model, clean, precision, form):
    config = TrainingConfig()
    optimizer, loss = make_optimizer(model, config), loss_of(config)
    noisy = clean + 0.1 * torch.randn_like(clean)

    def task():
        with form():
            with torch.autocast(clean.device.type, precision, enabled=precision != torch.float32):
                restored = model(noisy)
            loss(restored.float(), clean).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return task


def seconds(task, device):
    """Wall time of one call."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize()
    began = time.perf_counter()
    task()
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matmul_peak(device, precision):
    """A function that measures the rate of a 2048³ matrix product, in GFLOP/s."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    return lambda: 2 * 2048**3 / seconds(lambda: a @ b, device) / 1e9


class Others:
    """What other processes take of the processor, as a share of the whole machine, since the last look."""

    def __init__(self):
        self.own, self.before = psutil.Process(), self.now()

    def now(self):
        machine, own = psutil.cpu_times(), self.own.cpu_times()
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return time.perf_counter(), sum(machine[:8]) - idle, own.user + own.system

    def share(self):
        before, self.before = self.before, self.now()
        passed, busy, own = (b - a for a, b in zip(before, self.before, strict=True))
        return max(0.0, busy - own) / passed / psutil.cpu_count()


def refuse_if_busy(share):
    if share > BUSY:
        raise KitError(
            f"the machine is busy: other processes take {share:.0%} of it. Nothing was kept; try when it rests"
        )


def measure(cases, rounds, progress=True):
    """Time the cases in turn, `rounds` times over, each between two measurements of the peak.

    Returns a table with COLUMNS: seconds (median, least, most), peak (median, GFLOP/s of a matrix product in the
    same precision), and share, the median over rounds of (operations of the published form / seconds) / peak.
    Raises KitError where other processes take more than a tenth of the machine.
    """
    others = Others()
    time.sleep(1)
    refuse_if_busy(others.share())
    operations = {}
    for case in cases:
        if (case.model, case.size) not in operations:
            with plainly():
                operations[case.model, case.size] = flops(case.network(), SIDE)
    found = {case: [] for case in cases}
    bar = tqdm(total=(rounds + 1) * len(cases), disable=not progress, unit="run")
    for i in range(rounds + 1):  # the first round warms up
        for case in cases:
            task, peak = case.prepare(), matmul_peak(case.device, case.precision)
            if case.task != "picture" or case.form == "kit":
                task()
            before, took, after = peak(), seconds(task, case.device), peak()
            if i:
                found[case].append((took, (before + after) / 2))
            bar.update()
        refuse_if_busy(others.share())
    rows = []
    for case, runs in found.items():
        took = [t for t, _ in runs]
        row = {
            **asdict(case),
            "seconds": statistics.median(took),
            "low": min(took),
            "high": max(took),
            "rounds": rounds,
        }
        row["peak"] = statistics.median(peak for _, peak in runs)
        if case.task == "forward":
            row["share"] = statistics.median(operations[case.model, case.size] / t / p / 1e9 for t, p in runs)
        rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)
