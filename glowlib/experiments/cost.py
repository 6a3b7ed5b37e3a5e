"""What a method costs: parameters, operations, training pixels, and memory measured in a fresh process."""

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import KitError
from ..evaluation.benchmark import kind, split_tile
from ..evaluation.peers import PEERS
from ..files import shipped_folder
from ..networks.base import parameter_count
from ..networks.pretrained import load_pretrained

# Runs alone in a process, so that nothing else raises its peak.
PROBE = """
import sys, numpy, glowlib
from glowlib.evaluation.benchmark import open_method
from glowlib.experiments.cost import peak_memory_increase
restore = open_method(sys.argv[1])
image = numpy.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), "float32")
print(peak_memory_increase(lambda: restore(image, 25)))
"""
SIDE = 256  # pixels; operations are counted on an image of this side
GIVEN = ("ffdnet",)  # networks that take the noise level


def flops(model: nn.Module, side: int = SIDE, *given: float) -> int:
    """Floating point operations of one forward pass on (1, 3, side, side); a multiply-add counts as two.

    Counted by PyTorch's FlopCounterMode on the meta device: nothing is computed. given: the noise level, for a network
    that takes it.
    """
    copy = deepcopy(model).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy(torch.empty(1, 3, side, side, device="meta"), *given)
    return counter.get_total_flops()


def peak_memory_increase(task: Callable) -> int:
    """Bytes by which a task, at its peak, lifts this process's memory above what it held before. Linux only."""

    def kilobytes(field):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field))

    with suppress(AttributeError):  # what was freed but is still held would hide a rise; glibc can give it back
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kilobytes("VmRSS")
    task()
    return (kilobytes("VmHWM") - before) * 1024


def peak_memory(name: str, height: int = 512, width: int = 768) -> int:
    """Bytes that restoring one image takes at its peak beyond model and image, on the CPU. Linux only.

    name: for `open_method`; height and width in pixels.
    """
    if not sys.platform.startswith("linux"):
        raise KitError("peak memory is read from /proc, which only Linux has")
    command = [sys.executable, "-c", PROBE, str(name), str(height), str(width)]
    found = {"PYTHONPATH": os.pathsep.join(sys.path)}  # as on Colab, where the package is found by this process alone
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | found)
    if done.returncode:
        raise KitError(f"the memory probe of {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def network(name: str) -> nn.Module:
    """The network of a method; without its weights where it is another author's, so that nothing is downloaded."""
    return PEERS[name].network() if name in PEERS else load_pretrained(split_tile(name)[0])


def cost(name: str) -> dict:
    """{"parameters", "gflops"} of a shipped model, a weights file, "dncnn" or "ffdnet"; gflops for 256×256 pixels."""
    model = network(name)
    given = (25.0,) if name in GIVEN else ()
    return {"parameters": parameter_count(model), "gflops": flops(model, SIDE, *given) / 1e9}


def training_pixels(name: str) -> float:
    """Pixels that a shipped model saw in training: steps × batch × crop²; NaN for weights without a description."""
    path = shipped_folder() / split_tile(name)[0] / "config.json"
    if not path.exists():
        return float("nan")
    description = json.loads(path.read_text())
    recipe = description["training"]  # crops that grow make batches smaller: a batch keeps its pixels
    return float(description["step"] * recipe["batch_size"] * recipe["crop"] ** 2)


def method_facts(methods: Sequence[str]) -> pd.DataFrame:
    """What stands behind each method's scores: the side table of a benchmark.

    Args:
        methods: names for `open_method`.

    Returns:
        A row a method: "noise level" ("given" or "blind"), "parameters", "operations per pixel" (of a forward pass on
        256×256 pixels, a multiply-add counts as two), "training pixels" (seen in training, repeats included). What is
        not known or not counted is NaN: operations of methods that are no networks, training of other authors.
    """
    unknown = float("nan")
    rows = {}
    for name in methods:
        if kind(name) in ("classical", "cbm3d"):
            rows[name] = ("" if name == "noisy" else "given", 0, 0.0 if name == "noisy" else unknown, 0.0)
            continue
        size = cost(name)
        seen = unknown if name in PEERS else training_pixels(name)
        level = "given" if name in GIVEN else "blind"
        rows[name] = (level, size["parameters"], 1e9 * size["gflops"] / SIDE**2, seen)
    columns = ["noise level", "parameters", "operations per pixel", "training pixels"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)
