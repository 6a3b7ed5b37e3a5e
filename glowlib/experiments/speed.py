"""Seconds and memory of a forward pass and of a training step of each network: `python -m glowlib bench`.

The networks are timed in turn, round by round, and each time lies between two measurements of the machine's peak, so
that a slower machine slows both. The published sizes are also timed in the reference implementation, which computes
the same outputs by the published operations.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..device import choose_device, has_bfloat16
from ..errors import KitError, exit_clearly
from ..files import user_path
from ..networks import create_model, fast
from ..training.config import TrainingConfig
from ..training.profiles import load_profile
from ..training.state import TrainState
from ..training.step import TrainingStep
from .cost import flops

SIDE = 256  # pixels: side of the square image that a published size is measured on, one image at a time
PEAK_SIDE = 2048  # rows of the square matrices whose product gives the machine's peak
TASKS = ("forward", "train step")
SETTINGS = ["model", "size", "task", "form", "precision", "device"]
MEASURED = ["seconds", "low", "high", "rounds", "peak", "share", "gflop", "memory"]


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    model: str  # a name in the profile
    size: str  # the profile: "paper" or "small"
    task: str  # one of TASKS
    form: str = "kit"  # or "reference", the reference implementation
    precision: str = "float32"  # or "bfloat16": autocast in a training step, else `Denoiser.mixed_precision`
    device: str = "cpu"

    @property
    def trains(self) -> bool:
        return self.task == "train step"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """A training step of a small model takes a batch of its recipe; all else is one image of SIDE × SIDE."""
        recipe = load_profile(self.size).training
        if self.trains and self.size == "small":
            return recipe.batch_size, 3, recipe.crop, recipe.crop
        return 1, 3, SIDE, SIDE


def build(case: Case) -> nn.Module:
    """The network of a case, with random weights, in float32 on the default device."""
    options = {k: v for k, v in load_profile(case.size).models[case.model].items() if k != "training"}
    torch.manual_seed(0)
    return create_model(options.pop("network"), **options)


def prepare(case: Case, model: nn.Module) -> Callable[[], None]:
    """A function that does the task of a case once, with a model from `build`, on random images."""
    model = model.to(case.device).train(case.trains)
    lower = case.precision != "float32"
    if lower and not case.trains:
        model.mixed_precision()
    form = fast.disabled if case.form == "reference" else nullcontext
    torch.manual_seed(0)
    clean = torch.rand(case.shape, device=case.device)
    noisy = clean + 0.1 * torch.randn_like(clean)

    def forward():
        with form(), torch.no_grad():
            model(noisy)

    if not case.trains:
        return forward
    state = TrainState(model, TrainingConfig(precision=case.precision))
    step = TrainingStep(state, TrainingConfig(precision=case.precision), micro_batch=len(noisy))

    def train_step():
        with form():
            step(noisy, clean)

    return train_step


def seconds(task: Callable[[], object], device: str) -> float:
    """Wall time of one call."""
    synchronise = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronise()
    began = time.perf_counter()
    task()
    synchronise()
    return time.perf_counter() - began


def median_time(task: Callable[[], object], device: str) -> float:
    """Wall time of one call: the median of as many calls as fill a second, five at most."""
    took = []
    while len(took) < 5 and sum(took) < 1:
        took.append(seconds(task, device))
    return statistics.median(took)


def peak_rate(case: Case) -> float:
    """GFLOP/s of one matrix product on the device and in the precision of a case."""
    shape, kind = (PEAK_SIDE, PEAK_SIDE), {"device": case.device, "dtype": getattr(torch, case.precision)}
    a, b = torch.randn(shape, **kind), torch.randn(shape, **kind)
    return 2 * PEAK_SIDE**3 / seconds(lambda: a @ b, case.device) / 1e9


def peak_memory(task: Callable[[], object], device: str) -> int:
    """Bytes of the tensors that one call holds at its peak, beyond those that were there before it.

    They are counted from PyTorch's allocations, so that the count does not depend on other processes, nor on memory
    that the allocator keeps for later. Buffers inside a library's kernels are not counted.
    """
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        return torch.cuda.max_memory_allocated() - before
    with torch.autograd.profiler.profile(profile_memory=True) as recorded:
        task()
    held = peak = 0
    for event in recorded.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def published_gflop(case: Case) -> float:
    """GFLOP of one forward pass of a case's network on SIDE × SIDE pixels, by the published operations."""
    with fast.disabled(), torch.device("meta"):
        return flops(build(case), SIDE) / 1e9


def summarise(case: Case, runs: list[tuple[float, float]], gflop: float) -> dict:
    """The row of a case in the table of `measure`.

    Args:
        runs: (seconds of a call, GFLOP/s of the machine's peak around it), one for each round.
        gflop: operations of a forward pass, see `published_gflop`.
    """
    took = [second for second, _ in runs]
    row = asdict(case) | {"seconds": statistics.median(took), "low": min(took), "high": max(took)}
    row |= {"rounds": len(runs), "peak": statistics.median(peak for _, peak in runs)}
    if not case.trains:
        row |= {"gflop": gflop, "share": statistics.median(gflop / second / peak for second, peak in runs)}
    return row


def measure(cases: Iterable[Case], rounds: int, progress: bool = True) -> pd.DataFrame:
    """Time the cases in turn, `rounds` times over, each after one call to warm up and between two peaks.

    Returns:
        A table with SETTINGS and MEASURED. seconds: of one call, the median over the rounds; low, high: the least and
        the most of them. peak: GFLOP/s of a matrix product in the case's precision, the median over the rounds. gflop,
        share (forward passes only): the published form's operations, and their rate as a part of the peak measured
        around the call. memory: MB, see `peak_memory`; of a training step: its activations and gradients.
    """
    runs = {case: [] for case in cases}
    memory = {}
    for _ in range(rounds):
        for case in tqdm(runs, disable=not progress, unit="case"):
            task = prepare(case, build(case))
            task()  # the first call allocates the optimizer's moments and is slower
            before, took, after = peak_rate(case), median_time(task, case.device), peak_rate(case)
            runs[case].append((took, (before + after) / 2))
            if case not in memory:
                memory[case] = peak_memory(task, case.device) / 1e6
    rows = [summarise(case, runs[case], published_gflop(case)) | {"memory": memory[case]} for case in runs]
    return pd.DataFrame(rows, columns=SETTINGS + MEASURED)


def all_cases(device: str) -> list[Case]:
    """The networks at the published and the shipped sizes; the published ones in the reference implementation too."""
    lower = device != "cpu" or has_bfloat16()
    cases = []
    for size in ("paper", "small"):
        for model in load_profile(size).models:
            for task in TASKS:
                cases.append(Case(model, size, task, device=device))
                if size == "paper":
                    cases.append(Case(model, size, task, "reference", device=device))
                if lower:
                    cases.append(Case(model, size, task, precision="bfloat16", device=device))
    return cases


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `measure` as text: seconds with their range, share of the peak in percent, memory in MB."""
    shown = table[["model", "task", "form", "precision"]].copy()
    shown["seconds"] = [f"{r.seconds:.3g} ({r.low:.3g} to {r.high:.3g})" for r in table.itertuples()]
    shown["share of peak"] = ["" if pd.isna(share) else f"{share:.0%}" for share in table["share"]]
    shown["memory, MB"] = [f"{memory:.0f}" for memory in table["memory"]]
    return shown


def engine_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """Times and ratios of `python -m glowlib engines` as text, a row a network.

    Args:
        table: a row for each call: model, engine, form, round, seconds.
    Returns:
        Ratios first: how many times as fast as the faster of the other runtimes on the plain form, in the same round,
        the kit is, and the best of the runtimes on the optimised form; the median over the rounds with the first and
        the third quartile. Then the median seconds of each engine and form.
    """
    rows = []
    for model, calls in table.groupby("model", sort=False):
        rounds = calls.pivot(index="round", columns=["engine", "form"], values="seconds")
        others = [engine for engine in calls["engine"].unique() if engine != "kit"]
        plain, optimised = (rounds[[(engine, form) for engine in others]] for form in ("plain", "optimised"))
        rival = plain[plain.median().idxmin()]
        row = {"model": model}
        best = optimised.median().idxmin()
        for name, mine in (("kit", rounds["kit", "optimised"]), ("best backend", optimised[best])):
            low, middle, high = (rival / mine).quantile([0.25, 0.5, 0.75])
            row[f"ratio of the {name}"] = f"{middle:.2f} ({low:.2f} to {high:.2f})"
        for engine, form in [("kit", "optimised"), *plain, *optimised]:
            label = "kit, s" if engine == "kit" else f"{engine} {form}, s"
            row[label] = f"{rounds[engine, form].median():.3g}"
        rows.append(row)
    return pd.DataFrame(rows)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=user_path, default=Path("results/runs/bench"), help="folder for the table")
    parser.add_argument("--rounds", type=int, default=3, help="number of times that every case is timed")
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is one)")
    args = parser.parse_args(argv)
    if args.rounds < 1:
        raise KitError(f"--rounds must be at least 1, not {args.rounds}")
    device = choose_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if device not in ("cpu", "cuda"):
        raise KitError(f"--device must be cpu or cuda, not {device}")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # no messages of the profiler that counts allocations
    table = measure(all_cases(device), args.rounds)
    machine = {
        "processor": torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / f"speed_{device}.csv", index=False, float_format="%.6g")
    (args.out / f"machine_{device}.json").write_text(json.dumps(machine, indent=1) + "\n")
    print(readable(table).to_markdown(index=False))
    print(f"in {args.out}: speed_{device}.csv, machine_{device}.json")
