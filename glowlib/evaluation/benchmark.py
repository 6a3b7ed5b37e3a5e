"""Scores: methods × pictures × noise levels × conventions -> one tidy table, a row a picture; and its summary."""

import argparse
import csv
import hashlib
import json
import time
from functools import cache, partial
from importlib.metadata import version
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import bootstrap
from tqdm.auto import tqdm

from ..networks.convert import list_models, load_pretrained, shipped_folder
from .classical import METHODS, restore, strengths
from ..data.datasets import load_dataset
from ..device import choose_device
from ..errors import KitError, exit_clearly
from .tiling import denoise
from .metrics import psnr, ssim
from ..data.noise import add_noise
from ..training.profiles import list_profiles, load_profile
from ..training.run_folder import write_csv

KEYS = ["method", "dataset", "image", "sigma", "convention", "seed"]
SCORES = ["psnr", "ssim_grey", "ssim_rgb"]
COLUMNS = [*KEYS, *SCORES, "seconds", "fingerprint"]


CLASSICAL = ("noisy", *METHODS)  # "noisy" is the noisy picture itself, scored as a method like any other


# The modules that a score depends on; a test asks Python which ones are imported on the way to it.
COMPUTING = {
    *("attention", "checkpoints", "classical", "context", "datasets", "device", "errors", "fusion", "gcunet"),
    *("glownet", "head", "images", "inference", "linear", "metrics", "models", "network", "noise", "parallel"),
    *("sunet", "swin", "upsample"),
}


@cache
def code_fingerprint():
    """Hash of the code and of the libraries that compute, so that old rows are not taken for new ones."""
    digest = hashlib.sha256()
    for name in sorted(COMPUTING):
        digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
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
    return hashlib.sha256(code_fingerprint().encode() + content).hexdigest()[:12]


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


def run_benchmark(datasets, methods, sigmas, path, *, conventions=("float",), seeds=(0,), device="cpu", progress=True):
    """Score every method on every picture; return the tidy table, a pandas.DataFrame with COLUMNS.

    datasets: names for `load_dataset`, or {name: [(file name, picture)]}. methods: "noisy", classical ones (see
    `glowlib.classical`), shipped models, weights files; the last two may name their tiles, see `open_method`. sigmas: 0
    to 255 scale. path: the table's CSV file, written row by row; rows already there from the same code and weights are
    not computed again, so that an interrupted run continues, and rows of other methods and pictures stay.
    conventions: "float", "8bit". PSNR in dB, SSIM under both conventions (see `glowlib.metrics`), seconds of wall time.
    Raises ValueError for unknown methods, and for a file of another kind, before anything is computed.
    """
    torch.backends.cudnn.allow_tf32 = False  # scores do not depend on the processor
    if not isinstance(datasets, dict):
        datasets = {name: load_dataset(name) for name in datasets}
    opened = {name: open_method(name, device) for name in methods}
    prints = {name: fingerprint(name) for name in methods}
    wanted = {
        (method, dataset, image, f"{sigma:g}", convention, str(seed)): (sigma, seed)
        for dataset, pictures in datasets.items()
        for image, _ in pictures
        for convention in conventions
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
            method, dataset, image, _, convention, _ = key
            clean = pictures[dataset, image]
            noisy = add_noise(clean, sigma, seed=seed, name=image, protocol=convention)
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


def summarise(table):
    """Means over pictures and seeds: a row for each (dataset, convention, σ, method), methods in their order."""
    return table.groupby(["dataset", "convention", "sigma", "method"], sort=False)[SCORES].mean().reset_index()


def paired_differences(table, methods, score="psnr", resamples=10_000):
    """Mean difference of each pair of methods over the pictures, with a bootstrap 95% interval (percentile).

    The same pictures, at least two, with the same noise were restored by both, so that their own difficulty cancels.
    Returns a row for each (dataset, convention, σ, pair): methods "a" and "b", mean of a - b, its interval's
    ends "low" and "high", and the number of pictures; seeds are averaged first.
    """
    rows = []
    groups = table[table["method"].isin(methods)].groupby(["dataset", "convention", "sigma"], sort=False)
    for key, part in groups:
        wide = part.pivot_table(score, "image", "method")
        for a, b in combinations(methods, 2):
            difference = (wide[a] - wide[b]).dropna().to_numpy()
            settings = {"n_resamples": resamples, "method": "percentile", "rng": np.random.default_rng(0)}
            low, high = bootstrap((difference,), np.mean, **settings).confidence_interval
            rows.append((*key, a, b, difference.mean(), low, high, len(difference)))
    columns = ["dataset", "convention", "sigma", "a", "b", "difference", "low", "high", "pictures"]
    return pd.DataFrame(rows, columns=columns)


def published(datasets):
    """What others report on these sets: a table with each number's noise convention and source, never to be mixed
    with measured rows. The paper's own tables for SUNet, GLOWNet and S-GLOWNet are pictures only: unknown here.
    """
    with files("glowlib").joinpath("published_results.csv").open() as file:
        table = pd.read_csv(file)
    table = table[table["dataset"].isin(datasets)].rename(columns={"noise": "convention", "psnr_db": "psnr"})
    return table.reset_index(drop=True)


def paper_layout(summary, convention):
    """The paper's layout of one convention: a row a method, columns (dataset, σ, score), rounded for print."""
    part = summary[summary["convention"] == convention]
    wide = part.pivot(index="method", columns=["dataset", "sigma"], values=["psnr", "ssim_grey"])
    wide = wide.loc[part["method"].unique()].reorder_levels([1, 2, 0], axis=1)
    columns = [
        (d, s, m) for d in part["dataset"].unique() for s in part["sigma"].unique() for m in ("psnr", "ssim_grey")
    ]
    wide = wide[columns]
    shown = wide.copy().astype(object)
    for column in columns:
        shown[column] = wide[column].map(("{:.2f}" if column[2] == "psnr" else "{:.4f}").format)
    names = {"psnr": "PSNR", "ssim_grey": "SSIM"}
    shown.columns = pd.MultiIndex.from_tuples([(d, f"σ = {s:g}", names[m]) for d, s, m in columns])
    shown.index.name = None
    return shown


def write_tables(summary, folder):
    """summary.csv, and for each convention table_<convention>.md and .tex, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    summary.to_csv(folder / "summary.csv", index=False, float_format="%.6f")
    for convention in summary["convention"].unique():
        shown = paper_layout(summary, convention)
        caption = (
            f"PSNR (dB) over RGB and SSIM (grey, 7×7 uniform window), mean over the pictures; noise: {convention}."
        )
        flat = shown.copy()
        flat.columns = [", ".join(column) for column in shown.columns]
        (folder / f"table_{convention}.md").write_text(f"{caption}\n\n{flat.to_markdown(disable_numparse=True)}\n")
        latex = shown.rename(columns=lambda c: c.replace("σ", r"$\sigma$")).style.to_latex(
            hrules=True,
            caption=caption.replace("×", r"$\times$"),
            column_format="l" + "r" * shown.shape[1],
            multicol_align="c",
        )
        (folder / f"table_{convention}.tex").write_text(latex)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib.benchmark", description=__doc__)
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(list_profiles())}")
    parser.add_argument("--pictures", type=int, help="as many of each dataset, spread evenly (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="CSV file; rows already there are kept")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    args = parser.parse_args(argv)
    if args.pictures is not None and args.pictures < 1:
        raise KitError(f"--pictures is a number from 1 up, not {args.pictures}")
    config = load_profile(args.profile)
    if not (config.datasets and config.methods):
        raise KitError(f"profile {config.name} has no datasets and methods to score: it is for training")
    datasets = {name: load_dataset(name) for name in config.datasets}
    for name, pictures in datasets.items():
        count = min(args.pictures or len(pictures), len(pictures))
        datasets[name] = [pictures[i * len(pictures) // count] for i in range(count)]
    settings = {"conventions": config.conventions, "seeds": config.seeds, "device": choose_device(args.device)}
    table = run_benchmark(datasets, config.methods, config.sigmas, args.output, **settings)
    print(summarise(table).to_string(index=False, float_format="%.4f"))


if __name__ == "__main__":
    main()
