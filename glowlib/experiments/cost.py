"""What a network costs: parameters, operations, and memory measured in a fresh process."""

import ctypes
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..errors import KitError
from ..networks import create_model
from ..networks.base import parameter_count
from ..networks.pretrained import load_pretrained

# Runs alone in a process, so that nothing else raises its peak.
PROBE = """
import sys, torch, glowlib
from glowlib.experiments.cost import peak_memory_increase
model = glowlib.load_pretrained(sys.argv[1])
image = torch.zeros(1, 3, int(sys.argv[2]), int(sys.argv[3]))
print(peak_memory_increase(lambda: glowlib.denoise(model, image)))
"""


def flops(model, side=256):
    """Floating point operations of one forward pass on (1, 3, side, side); a multiply-add counts as two.

    Counted by PyTorch's FlopCounterMode on the meta device: nothing is computed.
    """
    copy = create_model(model.name, **vars(model.config)).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        copy(torch.empty(1, 3, side, side, device="meta"))
    return counter.get_total_flops()


def peak_memory_increase(task):
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


def peak_memory(name, height=512, width=768):
    """Bytes that `denoise` takes at its peak beyond model and picture, on the CPU, default tiling. Linux only."""
    if not sys.platform.startswith("linux"):
        raise KitError("peak memory is read from /proc, which only Linux has")
    command = [sys.executable, "-c", PROBE, str(name), str(height), str(width)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise KitError(f"the memory probe of {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return int(done.stdout)


def cost(name):
    """{"parameters", "gflops"}: of a shipped model or a weights file; gflops for 256×256 pixels."""
    model = load_pretrained(name)
    return {"parameters": parameter_count(model), "gflops": flops(model) / 1e9}
