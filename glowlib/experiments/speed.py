"""How fast the networks are on this machine, beside its own peak, and what memory they take: `make bench`.

Everything is timed in turn, round by round, each time between two measurements of the machine's peak, so that what
slows the machine down slows both. The reference implementation is the networks' plain form (`fast.disabled()`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import psutil
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from ..device import choose_device, has_bfloat16
from ..errors import KitError, exit_clearly
from ..evaluation.tiling import denoise
from ..networks import create_model, fast
from ..training.config import TrainingConfig
from ..training.profiles import load_profile
from ..training.state import TrainState
from ..training.step import TrainingStep
from .cost import flops, peak_memory_increase

SIDE = 256  # pixels: the square that a forward pass and a training step are measured on, one at a time
PICTURE = (512, 768)
GROWTH = (512, 724, 1024, 1448, 2048)  # sides of the squares that show how cost grows
BUSY = 0.1  # share of the machine that other processes may take
TASKS = ("forward", "train step", "picture")
SETTINGS = ["model", "size", "task", "form", "precision", "device"]
MEASURED = ["seconds", "low", "high", "rounds", "peak", "share", "gflop", "megabytes", "memory"]


@dataclass(frozen=True)
class Case:
    """One thing to measure: a model of a profile, what it does, and how it computes that."""

    model: str
    size: str  # the profile: "paper" or "small"
    task: str  # one of TASKS, or "square N" for a picture of N × N pixels
    form: str = "kit"  # or "plain", the reference implementation
    precision: str = "float32"  # or "bfloat16": by autocast in training, else by `Denoiser.mixed_precision`
    device: str = "cpu"

    def prepare(self):
        """A function that does the task once."""
        model, state = self.network()
        form = fast.disabled if self.form == "plain" else nullcontext
        torch.manual_seed(0)
        clean = torch.rand(self.shape(), device=self.device)
        noisy = clean + 0.1 * torch.randn_like(clean)
        state.precision = getattr(torch, self.precision)
        training_step = TrainingStep(state, TrainingConfig(), micro_batch=len(noisy))

        def task():
            train = self.task == "train step"
            model.train(train)
            with form(), torch.set_grad_enabled(train):
                if train:
                    training_step(noisy, clean)
                elif self.task == "forward":
                    model(noisy)
                else:
                    denoise(model, noisy)

        return task

    def network(self):
        """The model in the case's precision, and the state of its training."""
        lower = self.precision != "float32" and self.task != "train step"
        return network(self.model, self.size, self.device, lower)

    def shape(self):
        """A training step of a small model takes a batch of its recipe, of a published one a single picture."""
        recipe = load_profile(self.size).training
        if self.task == "train step" and self.size == "small":
            return recipe.batch_size, 3, recipe.crop, recipe.crop
        sides = {"picture": PICTURE}.get(self.task, (SIDE, SIDE))
        return 1, 3, *((int(self.task.split()[1]),) * 2 if self.task.startswith("square") else sides)


@cache
def network(name, size, device, lower):
    """A model of a profile with random weights, `lower` in mixed precision, and the state of its training."""
    options = {k: v for k, v in load_profile(size).models[name].items() if k != "training"}
    torch.manual_seed(0)
    model = create_model(options.pop("network"), **options).to(device)
    if lower:
        model.mixed_precision()
    return model, TrainState(model, TrainingConfig())


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


def spell(task, device):
    """Wall time of one call: the median of as many as fill a second, five at most."""
    took = []
    while len(took) < 5 and sum(took) < 1:
        took.append(seconds(task, device))
    return statistics.median(took)


@cache
def product(device, precision):
    """A function: the product of two 2048 × 2048 matrices."""
    a, b = (torch.randn(2048, 2048, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    return lambda: a @ b


def peak(case):
    """GFLOP/s of a matrix product on the case's device, in its precision."""
    return 2 * 2048**3 / seconds(product(case.device, case.precision), case.device) / 1e9


def bandwidth(device):
    """GB/s of reading and writing memory: the best of five copies of 256 MB."""
    source = torch.ones(64 * 2**20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / min(seconds(lambda: target.copy_(source), device) for _ in range(5)) / 1e9


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views are free."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        read = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        written = [t for t in torch.utils._pytree.tree_leaves(result) if isinstance(t, torch.Tensor)]
        if not function.is_view:
            self.bytes += sum(t.nbytes for t in (*read, *written))
        return result


def traffic(case):
    """Megabytes that a case's operations read and write."""
    with Traffic() as counted:
        case.prepare()()
    return counted.bytes / 1e6


class Others:
    """What other processes take of the processor, as a share of the whole machine, since the last look."""

    def __init__(self):
        self.own, self.before = psutil.Process(), None
        self.before = self.now()

    def now(self):
        machine, own = psutil.cpu_times(), self.own.cpu_times()
        busy = machine.user + machine.system + machine.nice
        return time.perf_counter(), busy, own.user + own.system

    def share(self):
        now = self.now()
        passed, busy, own = (b - a for a, b in zip(self.before, now, strict=True))
        self.before = now
        return max(0.0, busy - own) / passed / psutil.cpu_count()


def refuse_if_busy(share):
    if share > BUSY:
        raise KitError(
            f"other processes take {share:.0%} of the machine: nothing was kept; measure again when it is quiet"
        )


def measure(cases, rounds, progress=True):
    """Time the cases in turn, `rounds` times over, each between two measurements of the peak, after a call to warm up.

    Returns a table with SETTINGS and MEASURED: seconds (median, least and most of what `spell` gives in a round), peak
    (GFLOP/s of a matrix product in the case's precision, median), gflop (operations of the published form of a forward
    pass), share (the median over rounds of those operations per second, as a part of the peak around them), megabytes
    (what a float32 forward pass on the CPU reads and writes); memory is left empty.
    Raises KitError where other processes take more than a tenth of the machine.
    """
    others = Others()
    time.sleep(1)
    refuse_if_busy(others.share())
    found = {case: [] for case in cases}
    bar = tqdm(total=rounds * len(cases), disable=not progress, unit="run")
    for _ in range(rounds):
        for case in cases:
            task = case.prepare()
            task()  # the first call after another network's is slower; in use, one network works on and on
            before, took, after = peak(case), spell(task, case.device), peak(case)
            found[case].append((took, (before + after) / 2))
            bar.update()
        refuse_if_busy(others.share())
    bar.close()
    rows = []
    for case, runs in found.items():
        took = [t for t, _ in runs]
        row = asdict(case) | {"seconds": statistics.median(took), "low": min(took), "high": max(took)}
        row |= {"rounds": rounds, "peak": statistics.median(p for _, p in runs)}
        if case.task == "forward":
            with fast.disabled():
                row["gflop"] = flops(network(case.model, case.size, case.device, lower=False)[0], SIDE) / 1e9
            row["share"] = statistics.median(row["gflop"] / t / p for t, p in runs)
            if (case.device, case.precision) == ("cpu", "float32"):
                row["megabytes"] = traffic(case)
        rows.append(row)
    return pd.DataFrame(rows, columns=SETTINGS + MEASURED)


def memory(case):
    """Megabytes that a case takes at its peak, in a fresh process; on a CPU, only Linux tells.

    Weights, the optimiser's moments and the picture do not count, gradients do.
    """
    if case.device == "cpu" and not sys.platform.startswith("linux"):
        return float("nan")
    command = [sys.executable, "-m", "glowlib", "bench", "--probe", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KitError(f"the memory probe of {case} failed: {(done.stderr.strip().splitlines() or ['killed'])[-1]}")
    return float(done.stdout)


def probe(case):
    """What `memory` runs: the task, twice, the second time with the optimiser's moments there."""
    task = case.prepare()
    states = case.network()[1].optimizer.state

    def moments():
        return sum(tensor.nbytes for state in states.values() for tensor in state.values())

    if case.device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        task()
        task()
        return (torch.cuda.max_memory_allocated() - before - moments()) / 1e6
    return (peak_memory_increase(lambda: (task(), task())) - moments()) / 1e6


def all_cases(device):
    """The networks at the published and the shipped sizes; the reference implementation at the published one."""
    lower = device != "cpu" or has_bfloat16()
    cases = []
    for size in ("paper", "small"):
        for model in load_profile(size).models:
            for task in TASKS:
                cases.append(Case(model, size, task, device=device))
                if size == "paper" and task != "picture":
                    cases.append(Case(model, size, task, "plain", device=device))
                if lower:
                    cases.append(Case(model, size, task, precision="bfloat16", device=device))
    return cases


def growth(device, model="sglownet-small", size="small", rounds=3):
    """How time and memory of one model grow with the picture: a row a square, see `measure`."""
    cases = [Case(model, size, f"square {side}", device=device) for side in GROWTH]
    table = measure(cases, rounds)
    table["memory"] = [memory(case) for case in cases]
    table["pixels"] = [side**2 for side in GROWTH]
    return table[["model", "size", "device", "pixels", "seconds", "low", "high", "rounds", "memory"]]


def readable(table):
    """The table for people: seconds with their range, share of the peak in percent, memory in GB."""
    shown = table[["model", "task", "form", "precision"]].copy()
    shown["seconds"] = [f"{r.seconds:.3g} ({r.low:.3g} to {r.high:.3g})" for r in table.itertuples()]
    shown["share of peak"] = ["" if pd.isna(share) else f"{share:.0%}" for share in table["share"]]
    shown["memory, GB"] = ["" if pd.isna(m) else f"{m / 1e3:.2f}" for m in table["memory"]]
    return shown


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/runs/bench"), help="folder of the tables")
    parser.add_argument("--rounds", type=int, default=3, help="how often all is timed in turn")
    parser.add_argument("--device", help="cpu or cuda (default: the best there is)")
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.probe:
        print(probe(Case(**json.loads(args.probe))))
        return
    if args.rounds < 1:
        raise KitError(f"--rounds is a number from 1 up, not {args.rounds}")
    device = choose_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")).type
    if device not in ("cpu", "cuda"):
        raise KitError(f"--device is cpu or cuda, not {device}: no other is timed here")
    cases = all_cases(device)
    table = measure(cases, args.rounds)
    machine = {
        "processor": torch.cuda.get_device_name() if device == "cuda" else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bandwidth": bandwidth(device),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    table["memory"] = [memory(case) for case in tqdm(cases, unit="process", desc="memory")]
    table.to_csv(args.out / f"speed_{device}.csv", index=False, float_format="%.6g")  # kept, whatever comes after
    grown = growth(device)
    grown.to_csv(args.out / f"growth_{device}.csv", index=False, float_format="%.6g")
    (args.out / f"machine_{device}.json").write_text(json.dumps(machine, indent=1) + "\n")
    print(readable(table).to_markdown(index=False))
    print(f"in {args.out}: speed_{device}.csv, growth_{device}.csv, machine_{device}.json")
