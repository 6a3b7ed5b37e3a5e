"""Scores: methods × pictures × noise levels × protocols -> one tidy table, a row a picture."""

import csv
import hashlib
import json
import time
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from ..data.datasets import load_dataset
from ..data.metrics import psnr, ssim
from ..data.noise import add_noise
from ..errors import KitError
from ..files import sha256, shipped_folder, write_csv
from ..networks.pretrained import list_models, load_pretrained
from .classical import METHODS, restore, strengths
from .tiling import denoise

KEYS = ["method", "dataset", "image", "sigma", "protocol", "seed"]
SCORES = ["psnr", "ssim_grey", "ssim_rgb"]
COLUMNS = [*KEYS, *SCORES, "seconds", "fingerprint"]


CLASSICAL = ("noisy", *METHODS)  # "noisy" is the noisy picture itself, scored as a method like any other


# The code that a score depends on, beside the libraries.
PACKAGE = Path(__file__).parents[1]
COMPUTING = ("networks/**/*.py", "data/*.py", *(f"evaluation/{name}.py" for name in ("classical", "tiling")))


@cache
def code_fingerprint():
    """Hash of the code and of the libraries that compute, so that old rows are not taken for new ones."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in COMPUTING for path in PACKAGE.glob(pattern)):
        digest.update(path.read_bytes())
    digest.update(json.dumps(strengths()).encode())
    for library in ("torch", "numpy", "scikit-image", "PyWavelets"):
        digest.update(version(library).encode())
    return digest.hexdigest()


def split_tile(name):
    """("sglownet-small", "auto") for "sglownet-small"; "…@64" has tiles of 64 pixels, "…@whole" none (None)."""
    network, _, tile = name.rpartition("@")
    if network and (tile.isdecimal() or tile == "whole"):
        return network, None if tile == "whole" else int(tile)
    return name, "auto"


def weights_file(name):
    """The weights file of a method that is a network: a shipped model's, or the path itself."""
    name, _ = split_tile(name)
    shipped = shipped_folder() / name / "model.safetensors"
    return shipped if shipped.exists() else Path(name)


def fingerprint(name):
    """What a row of this method depends on, in 12 hexadecimal digits: the code, and a network's weights."""
    content = b"" if name in CLASSICAL else weights_file(name).read_bytes()
    return sha256(code_fingerprint().encode() + content)[:12]


def open_method(name, device):
    """A function (noisy picture, σ) -> restored picture, by the name of a classical method, a model or a file.

    A model or file may name its tiles, as in "sglownet-small@64" or "sglownet-small@whole".
    """
    if name == "noisy":
        return lambda noisy, sigma: noisy
    if name in METHODS:
        return partial(restore, name)
    network, tile = split_tile(name)
    if network not in list_models().shipped and not Path(network).exists():
        raise KitError(f"unknown method {name!r}; known are: {', '.join([*CLASSICAL, *list_models().shipped])}")
    model = load_pretrained(network).to(device)
    return lambda noisy, sigma: denoise(model, noisy, tile=tile)


def read_rows(path):
    """The finished rows of an earlier run as text, without a last line that was cut off."""
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames not in (None, COLUMNS):
                raise KitError(f"{path} is another kind of table: name a new file, or the scores of an earlier run")
            return [row for row in reader if None not in row.values() and None not in row and row["fingerprint"]]
    except OSError as error:
        raise KitError(f"cannot read the table {path}: {error.strerror}") from error


def run_benchmark(datasets, methods, sigmas, path, *, protocols=("float",), seeds=(0,), device="cpu", progress=True):
    """Score every method on every picture; return the tidy table, a pandas.DataFrame with COLUMNS.

    datasets: names for `load_dataset`, or {name: [(file name, picture)]}. methods: "noisy", classical ones (see
    classical.py), shipped models, weights files; the last two may name their tiles, see `open_method`. sigmas: 0
    to 255 scale. path: the table's CSV file, written row by row; rows already there from the same code and weights are
    not computed again, so that an interrupted run continues, and rows of other methods and pictures stay.
    protocols: "float", "8bit". PSNR in dB, SSIM under both protocols (see metrics.py), seconds of wall time.
    Raises ValueError for unknown methods, and for a file of another kind, before anything is computed.
    """
    torch.backends.cudnn.allow_tf32 = False  # scores do not depend on the processor
    if not isinstance(datasets, dict):
        datasets = {name: load_dataset(name) for name in datasets}
    opened = {name: open_method(name, device) for name in methods}
    prints = {name: fingerprint(name) for name in methods}
    wanted = {
        (method, dataset, image, f"{sigma:g}", protocol, str(seed)): (sigma, seed)
        for dataset, pictures in datasets.items()
        for image, _ in pictures
        for protocol in protocols
        for sigma in sigmas
        for seed in seeds
        for method in methods
    }
    pictures = {(dataset, image): picture for dataset, found in datasets.items() for image, picture in found}
    kept = {tuple(row[k] for k in KEYS): row for row in read_rows(path)}
    # Rows of these methods that other weights or other code made go; those of methods not asked for stay.
    kept = {key: row for key, row in kept.items() if row["fingerprint"] == prints.get(key[0], row["fingerprint"])}
    others = {key: row for key, row in kept.items() if key not in wanted}
    rows = {key: kept[key] for key in wanted if key in kept}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot write the table {path}: {error.strerror}") from error
    write_csv(path, COLUMNS, [*rows.values(), *others.values()])
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        for key, (sigma, seed) in tqdm(wanted.items(), unit="score", disable=not progress):
            if key in rows:
                continue
            method, dataset, image, _, protocol, _ = key
            clean = pictures[dataset, image]
            noisy = add_noise(clean, sigma, seed=seed, name=image, protocol=protocol)
            began = time.perf_counter()
            restored = opened[method](noisy, sigma)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            scores = (psnr(clean, restored), ssim(clean, restored, "grey"), ssim(clean, restored, "rgb"))
            row = dict(zip(KEYS, key, strict=True), seconds=f"{seconds:.3f}", fingerprint=prints[method])
            rows[key] = row | {name: f"{score:.6f}" for name, score in zip(SCORES, scores, strict=True)}
            writer.writerow(rows[key])
            file.flush()
    found = [rows[key] for key in wanted]
    write_csv(path, COLUMNS, [*found, *others.values()])
    table = pd.DataFrame(found, columns=COLUMNS)
    numbers = ["sigma", "seed", "seconds", *SCORES]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table
