"""Damaged pictures and weights files: each is opened, or refused by one `KitError`."""

import io
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import warnings
import zlib
from collections import Counter
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import tifffile
import torch
from nano import HINTS, nano_network, row, weights_files
from PIL import Image
from skimage import data

import glowlib
from glowlib.data.image_files import read_picture, write_png
from glowlib.errors import KitError

KINDS = ("png", "jpeg", "tiff", "webp", "safetensors", "pth")
HANGS = 20  # seconds after which a trial counts as hanging
BATCH = 1500  # trials that one child process makes; it starts in seconds


def mutated(content: bytes, number: int) -> bytes:
    """The content after one to eight damages, most often one, drawn from the trial's number."""
    draw, damaged = random.Random(number), bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 3, 8])):
        at = draw.randrange(len(damaged)) if draw.random() < 0.5 else draw.randrange(min(200, len(damaged)))
        end = at + draw.choice([1, 2, 4, 8, 64])
        damage = draw.randrange(5)
        if damage == 0:
            damaged[at] ^= 1 << draw.randrange(8)
        elif damage == 1:
            damaged[at:end] = draw.randbytes(end - at)
        elif damage == 2:
            damaged[at:end] = draw.choice([b"\0", b"\xff", b"\x7f"]) * (end - at)
        elif damage == 3:
            del damaged[at:end]
        else:
            damaged[at:at] = damaged[at:end]
        if not damaged:
            break
    if draw.random() < 0.1:
        del damaged[draw.randrange(len(damaged) + 1) :]
    return bytes(damaged)


def with_checksums(content: bytes) -> bytes:
    """A damaged PNG file with the checksums of its chunks put right, so that the decoder behind them is tried, too."""
    at, parts = 8, [content[:8]]
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4])
        parts += [content[at:end], zlib.crc32(content[at + 4 : end]).to_bytes(4)]
        at = end + 4
    return b"".join([*parts, content[at:]])


def originals(kind: str) -> list[bytes]:
    """Small pictures of a format: grey, colour, with alpha, a palette, 16 bits, as far as it knows them."""
    colour = data.astronaut()[100:124, 200:220]
    deep = colour.astype(np.uint16) * 257
    found = []
    if kind == "tiff":
        for pixels in (colour, deep, deep[..., 0], colour[..., 1]):
            for compression in (None, "zlib"):
                file = io.BytesIO()
                photometric = "rgb" if pixels.ndim == 3 else "minisblack"
                tifffile.imwrite(file, pixels, compression=compression, photometric=photometric)
                found.append(file.getvalue())
        return found
    modes = {"png": ("L", "RGB", "RGBA", "LA", "P", "1"), "jpeg": ("L", "RGB", "CMYK"), "webp": ("RGB", "RGBA")}
    for mode in modes[kind]:
        for options in ({}, {"lossless": True} if kind == "webp" else {"optimize": True}):
            file = io.BytesIO()
            Image.fromarray(colour).convert(mode).save(file, kind, **options)
            found.append(file.getvalue())
    if kind == "png":
        with tempfile.TemporaryDirectory() as folder:
            for pixels in (deep, deep[..., 0]):
                write_png(Path(folder) / "deep.png", pixels)
                found.append((Path(folder) / "deep.png").read_bytes())
    return found


def out_of_time(*_):
    raise TimeoutError(f"no end after {HANGS} seconds")


def damaged_files(kind: str, numbers: range) -> list[tuple[str, int, str]]:
    """Read damaged files of a kind: (outcome, number, error) of each trial; some of what opens is restored, too."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native decoders print
    signal.signal(signal.SIGALRM, out_of_time)
    suffix = {"safetensors": ".safetensors", "pth": ".pth"}.get(kind, f".{kind}")
    sources = weights_files() if kind in ("safetensors", "pth") else originals(kind)
    if kind in ("safetensors", "pth"):
        sources = sources[:1] if kind == "safetensors" else sources[1:]
    network = nano_network()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"damaged{suffix}"
        for number in numbers:
            content = mutated(sources[number % len(sources)], number)
            path.write_bytes(with_checksums(content) if kind == "png" and number % 4 else content)
            signal.alarm(HANGS)
            try:
                if kind in ("safetensors", "pth"):
                    glowlib.load_pretrained(path, **HINTS)
                else:
                    pixels = read_picture(path, max_pixels=1_000_000)
                    if number % 50 == 0 and pixels.size < 100_000:
                        result = glowlib.denoise(network, pixels)
                        assert (result.shape, result.dtype) == (pixels.shape, pixels.dtype)
                outcomes.append(("opened", number, ""))
            except KitError as error:
                one_line = str(error).isprintable()
                outcomes.append(("refused" if one_line else "escaped", number, "" if one_line else repr(error)))
            except BaseException as error:
                outcomes.append(("escaped", number, repr(error)[:200]))
            finally:
                signal.alarm(0)
    return outcomes


def try_damaged_files(kind: str, count: int) -> dict:
    """Damaged files of a kind, in child processes: one that dies has a file that escaped."""
    outcomes, waiting = [], [range(at, min(at + BATCH, count)) for at in range(0, count, BATCH)]
    spawn = multiprocessing.get_context("spawn")
    while waiting:
        numbers = waiting.pop()
        try:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                outcomes += pool.submit(damaged_files, kind, numbers).result()
        except BrokenProcessPool:
            if len(numbers) == 1:
                outcomes.append(("escaped", numbers[0], "the process died"))
            else:  # find the file
                middle = (numbers.start + numbers.stop) // 2
                waiting += [range(numbers.start, middle), range(middle, numbers.stop)]
    for outcome, number, error in outcomes:
        if outcome == "escaped":
            print(f"{kind} {number}: {error}", file=sys.stderr)
    counts = Counter(outcome for outcome, *_ in outcomes)
    return row(f"damaged .{kind} files", count, counts["opened"], counts["refused"])
