"""Large pictures, many pictures, and the same picture restored in other ways."""

import resource
import subprocess
import sys

import numpy as np
import torch
from nano import nano_network, row
from skimage import data

import glowlib
from glowlib.evaluation import tiling

LARGEST = """
import resource, sys
sys.path[:0] = sys.argv[2:]
import numpy as np, torch, glowlib
from nano import nano_network
torch.set_num_threads(1)
network = nano_network() if sys.argv[1] == "nano" else glowlib.load_pretrained(sys.argv[1])
image = np.random.default_rng(0).integers(0, 256, (10_000, 10_000, 3), np.uint8)
glowlib.denoise(network, image[:64, :64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
result = glowlib.denoise(network, image)
assert result.shape == image.shape and result.dtype == image.dtype
# Beyond the image, which was there before, and the result.
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 - result.nbytes)
"""


def try_largest(name: str = "nano") -> dict:
    """100 megapixels in at most 2 GB above the picture and its result."""
    command = [sys.executable, "-c", LARGEST, name, *sys.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return row("100 megapixels", 1, 0)
    beyond = int(done.stdout)
    return row("100 megapixels", 1, int(beyond <= 2e9), note=f"{beyond / 1e9:.2f} GB above the picture and its result")


def try_soak(count: int) -> dict:
    """Pictures of mixed sizes and kinds, four rounds of the same: from the third on no memory is added.

    The first rounds fill the caches, PyTorch's for each size above all.
    """
    network = nano_network()
    for number in range(count):
        draw = np.random.default_rng(number % (count // 4))
        height, width = draw.integers(16, 400, 2)
        kind = (np.uint8, np.uint16, np.float32)[draw.integers(3)]
        channels = ((), (3,), (4,), (1,))[draw.integers(4)]
        image = draw.random((height, width, *channels))
        image = image.astype(kind) if kind is np.float32 else (image * np.iinfo(kind).max).astype(kind)
        result = glowlib.denoise(network, image)
        if (result.shape, result.dtype) != (image.shape, image.dtype):
            return row("pictures one after another", count, number)
        if number + 1 == count // 2:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return row("pictures one after another", count, count if added < 50 else 0, note=f"{added:.0f} MB added")


def try_ways() -> dict:
    """The shipped models on a photograph: 1 and 2 threads, batches, another order of the tiles, within 1e-5."""
    photograph, right, tried = data.chelsea()[:200, :264].astype(np.float32) / 255, 0, 0
    noisy = glowlib.add_noise(photograph, 25, seed=0, name="chelsea.png")
    positions, threads = tiling.positions, torch.get_num_threads()
    for name in glowlib.list_models().shipped:
        network = glowlib.load_pretrained(name)
        expected = glowlib.denoise(network, noisy, tile=96, batch_size=1)
        for number, batch_size, order in ((1, 1, 1), (2, 1, 1), (2, 5, 1), (2, 3, -1), (1, 12, -1)):
            torch.set_num_threads(number)
            tiling.positions = lambda *given, order=order: positions(*given)[::order]
            result = glowlib.denoise(network, noisy, tile=96, batch_size=batch_size)
            tiling.positions = positions
            tried += 1
            right += np.abs(result - expected).max() <= 1e-5
    torch.set_num_threads(threads)
    return row("threads, batches, orders of tiles", tried, int(right))


def try_seams() -> dict:
    """The error where tiles meet is within 2% of the error of the same pixels in the middle of another grid's tiles."""
    tile, overlap, margin = 96, 32, 32
    side = tile + 3 * (tile - overlap)  # tiles start at multiples of 64
    near = np.zeros(side, bool)
    for start in tiling.positions(side, tile, overlap)[1:]:
        near[start + overlap // 2 - 4 : start + overlap // 2 + 4] = True
    border = near[:, None] | near
    right, ratios = 0, []
    for name in glowlib.list_models().shipped:
        network, here, there = glowlib.load_pretrained(name), 0.0, 0.0
        for picture in (data.astronaut, data.chelsea, data.coffee):
            clean = picture()[:side, :side].astype(np.float32) / 255
            noisy = glowlib.add_noise(clean, 25, seed=0, name=picture.__name__)
            shifted = np.pad(noisy, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")  # by half a step
            one = glowlib.denoise(network, noisy, tile=tile, overlap=overlap)
            other = glowlib.denoise(network, shifted, tile=tile, overlap=overlap)[margin:-margin, margin:-margin]
            here += ((one - clean) ** 2)[border].sum()
            there += ((other - clean) ** 2)[border].sum()
        ratios.append(here / there)
        right += here <= 1.02 * there
    note = f"error at borders over error inside: {min(ratios):.3f} to {max(ratios):.3f}"
    return row("seams", len(ratios), right, note=note)
