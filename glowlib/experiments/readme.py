"""Results in README and docs/: the table, the picture and the badges that `python -m glowlib cards` writes."""

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ..data.datasets import bundled
from ..data.noise import add_noise
from ..errors import KitError
from ..evaluation.tables import read_table
from ..evaluation.tiling import denoise
from ..networks.pretrained import load_pretrained
from .figures import teaser

# Method -> how README calls it. A method without scores has no row.
METHODS = {
    "noisy": "noisy image",
    "nlm": "non-local means (given σ)",
    "cbm3d": "CBM3D (given σ)",
    "dncnn": "DnCNN (blind)",
    "ffdnet": "FFDNet (given σ)",
    "gcunet-small": "GCUNet (context only)",
    "sunet-small": "SUNet (windows only)",
    "glownet-small": "GLOWNet (parallel)",
    "sglownet-small": "S-GLOWNet (context first)",
}
# Arm of the study, or method scored beside it -> how its table calls it.
ARMS = {
    "nlm": "non-local means (given σ)",
    "wavelet": "wavelets",
    "sunet": "SUNet",
    "sunet-minutes": "SUNet, S-GLOWNet's training time",
    "sunet-operations": "SUNet, S-GLOWNet's operations",
    "sglownet": "S-GLOWNet",
    "sglownet-no-blocks": "S-GLOWNet without context blocks",
    "sglownet-window": "S-GLOWNet, attention in its own window",
    "sglownet-window-no-blocks": "S-GLOWNet, both of these",
    "gcunet": "GCUNet",
    "gcunet-no-blocks": "GCUNet without context blocks",
}
SIGMAS = (10, 30, 50)
SIDE = 256  # pixels: side of the square image whose operations results/*/tables/cost.csv holds
PHOTOGRAPH, SQUARE = "chelsea", {"crop": (50, 100), "side": 150}  # of the teaser


def result_table(folders: list[Path]) -> str:
    """README's table of results, as Markdown.

    Args:
        folders: each with summary.csv, and cost.csv for the methods that have parameters; those that do not exist are
            left out.
    Returns:
        A row for each of METHODS that has scores: parameters, operations for each pixel, and PSNR in dB under `float`
        noise for each data set and noise level.
    Raises:
        KitError: where a folder lacks a table.
    """
    folders = [folder for folder in folders if folder.is_dir()]
    scores = pd.concat([read_table(folder / "summary.csv", ["protocol"]) for folder in folders])
    costs = pd.concat([read_table(folder / "cost.csv", []) for folder in folders])
    costs = costs.drop_duplicates("method").set_index("method")
    scores = scores[(scores["protocol"] == "float") & scores["sigma"].isin(SIGMAS)]
    scores = scores.drop_duplicates(["dataset", "sigma", "method"]).set_index(["dataset", "sigma", "method"])["psnr"]
    datasets = list(dict.fromkeys(scores.index.get_level_values("dataset")))
    found = set(scores.index.get_level_values("method"))
    rows = []
    for method in (method for method in METHODS if method in found):
        parameters, gflop = costs.reindex([method]).iloc[0][["parameters", "gflops"]]
        millions = (parameters / 1e6, 1e3 * gflop / SIDE**2)
        psnr = (scores.get((dataset, sigma, method)) for dataset in datasets for sigma in SIGMAS)
        row = [METHODS[method], *("" if pd.isna(value) else f"{value:.2f} M" for value in millions)]
        rows.append(row + ["" if value is None else f"{value:.2f}" for value in psnr])
    head = ["method", "parameters", "operations per pixel"]
    head += [f"{dataset}: {sigma}" if sigma == SIGMAS[0] else str(sigma) for dataset in datasets for sigma in SIGMAS]
    return markdown([head, *rows])


def study_table(folder: Path) -> str:
    """The arms of the study, as Markdown.

    Args:
        folder: with runs.csv and scores.csv of `python -m glowlib study --results`.
    Returns:
        A row for each of ARMS that has scores: number of trainings (seeds), steps, parameters, operations of a training
        crop, and PSNR in dB for each data set and noise level, a mean over images and seeds. Empty without scores.
    """
    if not (folder / "scores.csv").exists():
        return ""
    runs = pd.read_csv(folder / "runs.csv").groupby("model")
    seeds, means = runs["seed"].nunique(), runs[["steps", "parameters", "gflops_crop"]].mean()
    scores = pd.read_csv(folder / "scores.csv")
    levels = list(
        scores[["dataset", "sigma"]].drop_duplicates().sort_values(["dataset", "sigma"]).itertuples(index=False)
    )
    psnr = scores.groupby(["model", "dataset", "sigma"])["psnr"].mean()
    rows = []
    for arm in (arm for arm in ARMS if arm in set(scores["model"])):
        trained = ["", "", "", ""]
        if arm in seeds:
            steps, parameters, gflop = means.loc[arm]
            trained = [str(seeds[arm]), f"{steps:,.0f}", f"{parameters / 1e6:.2f} M", f"{gflop:.2f} G"]
        rows.append([ARMS[arm], *trained, *(f"{psnr[arm, dataset, sigma]:.2f}" for dataset, sigma in levels)])
    head = ["network", "seeds", "steps", "parameters", "operations of a crop"]
    return markdown([[*head, *(f"{dataset}: {sigma:g}" for dataset, sigma in levels)], *rows])


def markdown(rows: list[list[str]]) -> str:
    """A table with a head, and numbers on the right in all columns but the first."""
    head, *others = rows
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *others]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_block(text: str, name: str, content: str) -> str:
    """text with `content` between its comments <!-- name --> and <!-- /name -->; KitError without them."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise KitError(f"there is no block {begin} ... {end} to write")
    return f"{before}{begin}\n{content}\n{end}{after}"


def with_badges(text: str, repository: str) -> str:
    """text with an "Open in Colab" badge at the end of each table row that begins with a notebook's link.

    Args:
        repository: "owner/name" on GitHub; empty: no badges.
    """
    pattern = r"(?m)^(?P<row>\| \[\d+\]\(notebooks/(?P<notebook>\S+?\.ipynb)\) \|[^|\n]*?)( \[!\[[^|\n]*)? \|$"
    return re.sub(pattern, lambda row: f"{row['row']} {colab_badge(repository, row['notebook'])}".rstrip() + " |", text)


def colab_badge(repository: str, notebook: str) -> str:
    """Markdown of an "Open in Colab" badge.

    Args:
        repository: "owner/name" on GitHub; empty: no badge.
        notebook: file name in notebooks/.
    """
    site = "https://colab.research.google.com"
    link = f"{site}/github/{repository}/blob/main/notebooks/{notebook}"
    return f"[![Open in Colab]({site}/assets/colab-badge.svg)]({link})" if repository else ""


def draw_teaser() -> Figure:
    """The picture on top of README: a square of a bundled photograph, noisy (σ = 50, `float`) and restored."""
    clean = bundled(PHOTOGRAPH)
    noisy = add_noise(clean, 50, seed=0, name=f"{PHOTOGRAPH}.png", protocol="float")
    models = {"SUNet": "sunet-small", "S-GLOWNet": "sglownet-small"}
    restored = {title: denoise(load_pretrained(name), noisy) for title, name in models.items()}
    return teaser(clean, noisy, restored, **SQUARE)
