"""A folder of many photographs: its memory, its progress bar, its interruption and its continuation."""

import math
import os
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from nano import row
from skimage import data

import glowlib
from glowlib.data.image_files import write_image

SIDE = 128
WEIGHTS = "gcunet-small"
MOST_ADDED = 50e6  # bytes


def make_photographs(folder: Path, count: int) -> None:
    """Noisy crops of photographs, each of another place."""
    folder.mkdir()
    photographs = [picture().astype(np.float32) / 255 for picture in (data.astronaut, data.chelsea, data.coffee)]
    for number in range(count):
        photograph, draw = photographs[number % 3], np.random.default_rng(number)
        top, left = (draw.integers(side - SIDE) for side in photograph.shape[:2])
        clean = photograph[top : top + SIDE, left : left + SIDE]
        noisy = glowlib.add_noise(clean, draw.uniform(5, 50), seed=0, name=f"{number}")
        write_image(folder / f"{number:04d}.png", np.uint8(np.clip(noisy, 0, 1) * 255 + 0.5), "png")


def restore(source: Path, results: Path, stop_at: int | None = None) -> dict:
    """Run the folder command; interrupted as by Ctrl-C when `stop_at` results are there.

    Returns:
        status, output and errors (text), and memory: {number of results: resident bytes}, seen twice a second.
    """
    command = [sys.executable, "-m", "glowlib", "denoise", "--device", "cpu", "--weights", WEIGHTS]
    command += ["--input_dir", source, "--result_dir", results]
    memory = {}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # ignored in what a shell starts with &
        process = psutil.Popen(list(map(str, command)), stdout=output, stderr=errors, text=True, preexec_fn=listen)
        while process.poll() is None:
            done = len(os.listdir(results)) if results.exists() else 0
            with suppress(psutil.Error):  # it has just ended
                memory[done] = process.memory_info().rss
            if stop_at is not None and done >= stop_at:
                process.send_signal(signal.SIGINT)
                process.wait()
            time.sleep(0.5)
        for file in (output, errors):
            file.seek(0)
        return {"status": process.returncode, "memory": memory, "output": output.read(), "errors": errors.read()}


def try_many(count: int) -> dict:
    """Restore a folder, interrupted at two fifths of it: the same command restores the rest, and memory stays flat."""
    with tempfile.TemporaryDirectory() as folder:
        source, results = Path(folder) / "photographs", Path(folder) / "restored"
        make_photographs(source, count)
        first = restore(source, results, stop_at=2 * count // 5)
        kept = {path.name: path.stat().st_mtime_ns for path in results.iterdir()}
        began = time.monotonic()
        second = restore(source, results)
        seconds = time.monotonic() - began
        untouched = all((results / name).stat().st_mtime_ns == moment for name, moment in kept.items())
        names = sorted(path.name for path in results.iterdir())
        whole = names == sorted(path.name for path in source.iterdir())
        there = f"{count} of {count} images restored" in second["output"] and f"{len(kept)} of them" in second["output"]
        bar = re.search(r"\[\d+:\d+<\d+:\d+, ", second["errors"])  # time used < time left
    added = max(grown(run["memory"], count // 10) for run in (first, second))
    right = first["status"] == 130 and second["status"] == 0 and len(kept) < count
    right = right and untouched and whole and there and bar is not None and added < MOST_ADDED
    if not right:
        print(first["errors"][-2000:], second, len(kept), untouched, whole, file=sys.stderr)
    speed = (count - len(kept)) / seconds
    note = f"{speed:.1f} images of {SIDE}×{SIDE} a second, {added / 1e6:.0f} MB added; interrupted after {len(kept)}"
    return row(f"a folder of {count} images, {WEIGHTS}", count, count if right else 0, note=note)


def grown(memory: dict[int, int], warm: int) -> float:
    """Bytes that were added after the first `warm` results, which fill the caches; infinite where nobody looked."""
    looks = [memory[number] for number in sorted(memory) if number >= min(memory) + warm]
    return max(looks) - looks[0] if len(looks) > 1 else math.inf
