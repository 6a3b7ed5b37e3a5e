"""`make stress`: damaged files, kills and races; prints what was tried and what survived. Status 1 for any escape.

An escape is a result that is neither right nor refused by one `KitError`: another exception, a dead or hanging process,
lost or different output. Every trial has a number, from which its damage is drawn, so it can be tried again.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from skimage import data

import glowlib
from glowlib.data.image_files import read_picture, write_png
from glowlib.errors import KitError
from glowlib.files import DATA_VARIABLE

OPTIONS = {"embed_dim": 4, "patch_size": 2, "window_size": 4, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
HINTS = {"qk_scale": None, "global_residual": True, "noise_normalisation": False, "attention_reach": None}
HINTS |= {"training_size": 32}  # what no tensor shows
NANO = {"network": "sunet", "options": OPTIONS | HINTS}
HANGS = 20  # seconds after which a trial counts as hanging
BATCH = 250  # trials that one child process makes


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


def weights_files() -> list[bytes]:
    """A nano network as the kit and as the original save it."""
    torch.manual_seed(0)
    tensors = glowlib.create_model("sunet", **NANO["options"]).state_dict()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        save_file(tensors, path)
        found = [path.read_bytes()]
    for content in (tensors, {"state_dict": tensors}):
        file = io.BytesIO()
        torch.save(content, file)
        found.append(file.getvalue())
    return found


def out_of_time(*_):
    raise TimeoutError(f"no end after {HANGS} seconds")


def damaged_files(kind: str, numbers: range) -> list[tuple[str, int, str]]:
    """Read damaged files of a kind: (outcome, number, error) of each trial; one picture in fifty is restored, too."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what native decoders print
    signal.signal(signal.SIGALRM, out_of_time)
    suffix = {"safetensors": ".safetensors", "pth": ".pth"}.get(kind, f".{kind}")
    sources = weights_files() if kind in ("safetensors", "pth") else originals(kind)
    if kind in ("safetensors", "pth"):
        sources = sources[:1] if kind == "safetensors" else sources[1:]
    network = glowlib.create_model("sunet", **NANO["options"]).eval()
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
    counts = pd.Series([outcome for outcome, *_ in outcomes]).value_counts()
    return {
        "what": f"damaged .{kind} files",
        "tried": count,
        "right": int(counts.get("opened", 0)),
        "refused": int(counts.get("refused", 0)),
        "escaped": int(counts.get("escaped", 0)),
    }


class Workshop:
    """A folder with six pictures, weights and a profile of a nano network, and the commands that use them."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "data" / "tiny").mkdir(parents=True)
        (folder / "pictures").mkdir()
        for i in range(6):
            picture = (data.astronaut, data.chelsea, data.coffee)[i % 3]()[40 * i :][:64, 100:164]
            for where in ("data/tiny", "pictures"):
                write_png(folder / where / f"{i}.png", picture)
        save_file(
            torch.load(io.BytesIO(weights_files()[1])), folder / "nano.safetensors", {"glowlib": json.dumps(NANO)}
        )
        recipe = {"data": "tiny", "hold_out": 2, "steps": 60, "batch_size": 2, "crop": 32, "lr": 1e-3}
        recipe |= {"precision": "float32", "validate_every": 20, "checkpoint_every": 2}
        (folder / "nano.yaml").write_text(
            yaml.safe_dump({"training": recipe, "models": {"nano": {"network": "sunet", **OPTIONS, **HINTS}}})
        )

    def training(self, name: str) -> list:
        profile = self.folder / "nano.yaml"
        command = ["-m", "glowlib.training", "--profile", profile, "--model", "nano", "--device", "cpu"]
        return [*command, "--out", self.folder / name]

    def denoising(self, name: str) -> list:
        return [
            *["-m", "glowlib", "denoise", "--input_dir", self.folder / "pictures"],
            *["--result_dir", self.folder / name, "--weights", self.folder / "nano.safetensors", "--device", "cpu"],
        ]

    def start(self, command: list) -> subprocess.Popen:
        environment = os.environ | {DATA_VARIABLE: str(self.folder / "data"), "OMP_NUM_THREADS": "1"}
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, *map(str, command)], env=environment, **kept)

    def results(self, name: str) -> dict[str, bytes]:
        """What a command leaves, without logs and states, which hold times."""
        kept = (".png", ".safetensors")
        paths = [path for path in (self.folder / name).rglob("*") if path.is_file()]
        return {path.name: path.read_bytes() for path in paths if path.suffix in kept or path.name.startswith(".tmp")}


def try_kills(shop: Workshop, what: str, command, count: int) -> dict:
    """Kill a command at random moments, each time in a new folder; started again, it has to end with the same files."""
    begun = time.monotonic()
    whole = shop.start(command(f"whole {what}"))
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    duration, right = time.monotonic() - begun, 0
    for number in range(count):
        name, draw = f"{what}, killed {number}", random.Random(number)
        process = shop.start(command(name))
        time.sleep(draw.uniform(0.3, 1.0) * duration)
        process.kill()
        process.communicate()
        again = shop.start(command(name))
        _, errors = again.communicate()
        same = shop.results(name) == shop.results(f"whole {what}")
        right += again.returncode == 0 and same
        if again.returncode or not same:
            print(f"{what}, kill {number}: status {again.returncode}, same files: {same}\n{errors}", file=sys.stderr)
    return {"what": f"kills of {what}", "tried": count, "right": right, "refused": 0, "escaped": count - right}


def try_pairs(shop: Workshop, what: str, command, count: int) -> dict:
    """Start a command twice at once in one folder: both end well, or the second is refused in one line; same files."""
    right = refused = 0
    for number in range(count):
        name = f"{what}, pair {number}"
        pair = [shop.start(command(name)) for _ in range(2)]
        errors = [process.communicate()[1] for process in pair]
        status = sorted(process.returncode for process in pair)
        same = shop.results(name) == shop.results(f"whole {what}")
        lines = [text.strip().splitlines()[-1:] for text in errors]
        refused += same and status == [0, 2]
        right += same and status == [0, 0]
        if not same or status not in ([0, 0], [0, 2]):
            print(f"{what}, pair {number}: status {status}, same files: {same}, {lines}", file=sys.stderr)
    escaped = count - right - refused
    return {"what": f"pairs of {what}", "tried": count, "right": right, "refused": refused, "escaped": escaped}


def main() -> int:
    parser = argparse.ArgumentParser(prog="make stress", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3000, help="damaged files of each kind")
    parser.add_argument("--kills", type=int, default=20, help="kills of each command, and pairs")
    args = parser.parse_args()
    rows = []
    for kind in ("png", "jpeg", "tiff", "webp", "safetensors", "pth"):
        rows.append(try_damaged_files(kind, args.files))
        print(rows[-1], flush=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        shop = Workshop(Path(folder) / "with a space")
        for what, command in (("a training", shop.training), ("a folder's restoration", shop.denoising)):
            for trials in (try_kills, try_pairs):
                rows.append(trials(shop, what, command, args.kills))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    return int(table["escaped"].sum() > 0)


if __name__ == "__main__":
    sys.exit(main())
