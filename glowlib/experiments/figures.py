"""Figures in the paper's manner: each function returns a matplotlib figure, `save` writes it as PNG and PDF."""

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..data.images import to_array
from ..data.metrics import psnr

# Okabe and Ito's palette, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = "osD^vP*X"
# A method looks the same in every figure; the three last colours are of Tol's muted palette.
LOOKS = dict(
    zip(
        ("sglownet-small", "sunet-small", "glownet-small", "gcunet-small", "tv", "nlm", "wavelet", "noisy")
        + ("dncnn", "ffdnet", "cbm3d"),
        zip((*COLOURS, "#882255", "#332288", "#999933"), MARKERS + "><h", strict=True),
        strict=True,
    )
)
SMALL, TINY = 8, 7  # points: numbers at axes and legends; long legends
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.markersize": 5,
    "figure.constrained_layout.use": True,
}
mpl.rcParams["pdf.fonttype"] = 42  # text stays text in a PDF
GRID = {"alpha": 0.3}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Decorate a function that draws a figure: it draws in STYLE, whatever the caller's settings are."""

    @wraps(draw)
    def in_style(*args, **kwargs):
        with mpl.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        for axis in figure.axes:  # ticks are made when the figure is drawn, outside the context
            axis.tick_params(which="both", labelsize=SMALL)
        return figure

    return in_style


def style(method: str) -> dict:
    """Colour and marker of a method; those without a place of their own share grey crosses."""
    colour, marker = LOOKS.get(method, LOOKS["noisy"])
    return {"color": colour, "marker": marker}


def show(axis, image, title: str = "", below: str = "") -> None:
    """Draw one image on an axis, clipped to [0, 1]; title above, text below."""
    axis.imshow(to_array(image).clip(0, 1), interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=SMALL, pad=3)
    axis.set_xlabel(below, fontsize=SMALL, labelpad=3)


def busiest_crop(clean, side: int) -> tuple[int, int]:
    """(top, left) of the square of that side with the most detail, on a grid of half its side."""
    grey = to_array(clean).mean(2)
    detail = np.abs(np.diff(grey, axis=0))[:, :-1] + np.abs(np.diff(grey, axis=1))[:-1]
    height, width = detail.shape
    tops, lefts = (range(0, max(1, n - side + 1), side // 2) for n in (height, width))
    return max(
        ((t, x) for t in tops for x in lefts), key=lambda c: detail[c[0] : c[0] + side, c[1] : c[1] + side].mean()
    )


@styled
def visual_comparison(clean, noisy, restored: Mapping, *, crop=None, side: int = 96) -> Figure:
    """The whole image with a marked square; then that square noisy, restored, clean, and the absolute errors.

    Args:
        clean: image, values in [0, 1].
        noisy: image.
        restored: {method: image}.
        crop: (top, left) of the square in pixels; by default the busiest one.
        side: of the square, in pixels.

    Returns:
        A figure as wide as a page; the PSNR below each crop is the whole image's, in dB.
    """
    clean = to_array(clean)
    side = min(side, *clean.shape[:2])
    top, left = crop or busiest_crop(clean, side)
    window = (slice(top, top + side), slice(left, left + side))
    shown = {"noisy": noisy, **restored, "clean": clean}
    lines = 1 if len(shown) <= 6 else 2  # more than six beside each other, and their names would overlap
    columns = -(-len(shown) // lines)
    ratio = clean.shape[1] / clean.shape[0]
    height = lines * (7.2 / (columns + 2 * ratio) * 2 + 0.55)
    figure = plt.figure(figsize=(7.2, height))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0)
    grid = figure.add_gridspec(2 * lines, columns + 1, width_ratios=[2 * ratio] + [1] * columns)
    whole = figure.add_subplot(grid[:, 0])
    show(whole, clean, "clean", "dB: PSNR of the whole image")
    whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=COLOURS[4], linewidth=1.5))
    errors = None
    for i, (name, image) in enumerate(shown.items()):
        image = to_array(image)
        line, column = 2 * (i // columns), i % columns + 1
        last = i == len(shown) - 1
        below = "" if last else f"{psnr(clean, image):.2f} dB"
        show(figure.add_subplot(grid[line, column]), image[window], name, below)
        axis = figure.add_subplot(grid[line + 1, column])
        if last:
            axis.axis("off")
            figure.colorbar(errors, cax=axis.inset_axes([0.0, 0.04, 0.12, 0.92]), extend="max")
            break
        error = np.abs(clean - image.clip(0, 1))[window].mean(2)
        errors = axis.imshow(error, cmap="viridis", vmin=0, vmax=0.15, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_xlabel("|error|", fontsize=SMALL, labelpad=3)
    return figure


@styled
def teaser(clean, noisy, restored, *, crop, side):
    """One square of a photograph in each version, side by side: the picture on top of README.

    Args:
        clean, noisy: images of the whole photograph, H×W×3, clean values in [0, 1].
        restored: {title: image}, as many as wanted.
        crop: (top, left) of the square, in pixels.
        side: of the square, in pixels.
    Returns:
        A matplotlib figure. The PSNR below each square is the whole photograph's, in dB.
    """
    (top, left), clean = crop, to_array(clean)
    shown = {"clean": clean, "noisy": noisy, **restored}
    figure, axes = plt.subplots(1, len(shown), figsize=(7.2, 7.2 / len(shown) + 0.42), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01)
    for axis, (title, image) in zip(axes, shown.items(), strict=True):
        below = "" if title == "clean" else f"{psnr(clean, image):.2f} dB"
        show(axis, to_array(image)[top : top + side, left : left + side], title, below)
    return figure


@styled
def psnr_against_sigma(summary: pd.DataFrame, protocol: str = "float") -> Figure:
    """Mean PSNR of each method against the noise level, one panel a dataset. summary: from `summarise`."""
    part = summary[summary["protocol"] == protocol]
    datasets = part["dataset"].unique()
    size = (1.3 + 3.1 * len(datasets), 2.8)
    figure, axes = plt.subplots(1, len(datasets), figsize=size, sharey=True, squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for method, rows in part[part["dataset"] == dataset].groupby("method", sort=False):
            axis.plot(rows["sigma"], rows["psnr"], label=method, **style(method))
        axis.set_title(f"{dataset}, {protocol} noise")
        axis.set_xlabel("noise level σ (0–255 scale)")
        axis.set_xticks(sorted(part["sigma"].unique()))
        axis.grid(**GRID)
    axes[0, 0].set_ylabel("PSNR (dB)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper")
    return figure


@styled
def scatter_of_pair(table: pd.DataFrame, a: str, b: str, sigma: float, protocol: str = "float") -> Figure:
    """Each image's PSNR by method b against that by method a; on the diagonal they are equal.

    Args:
        table: from `run_benchmark`.
        a: method on the horizontal axis.
        b: method on the vertical axis.
        sigma: noise level, 0 to 255 scale.
        protocol: of the noise.
    """
    part = table[(table["sigma"] == sigma) & (table["protocol"] == protocol)]
    figure, axis = plt.subplots(figsize=(3.4, 3.6))
    for i, (dataset, rows) in enumerate(part.groupby("dataset", sort=False)):
        wide = rows.pivot_table("psnr", "image", "method")
        above = int((wide[b] > wide[a]).sum())
        label = f"{dataset}: {b} higher on {above} of {len(wide)}"
        axis.scatter(wide[a], wide[b], s=14, color=COLOURS[i], marker=MARKERS[i], label=label, alpha=0.8)
    ends = [min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())]
    axis.plot(ends, ends, color="grey", linewidth=0.8, zorder=0)
    axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"{a}, PSNR (dB)", ylabel=f"{b}, PSNR (dB)")
    axis.set_title(f"σ = {sigma:g}, {protocol} noise")
    figure.legend(fontsize=TINY, loc="outside lower center")
    return figure


@styled
def quality_against_cost(costs: Mapping, label: str) -> Figure:
    """Each method's PSNR against what it costs, on a logarithmic axis. costs: {method: (cost, PSNR in dB)}."""
    figure, axis = plt.subplots(figsize=(4.8, 2.8))
    for method, (cost, quality) in costs.items():
        axis.scatter(cost, quality, s=36, label=method, **style(method))
    axis.set_xscale("log")
    axis.margins(0.15)
    figure.legend(loc="outside right upper")
    axis.set(xlabel=label, ylabel="PSNR (dB)")
    axis.grid(**GRID)
    return figure


@styled
def intervals(differences: pd.DataFrame, labels: Mapping) -> Figure:
    """Differences in dB with their 95% intervals, a line each; those that hold 0 are grey.

    Args:
        differences: columns model, difference, low and high, such as one score's rows of `differences_over_seeds`.
        labels: {model: text}, from the top.
    """
    rows = differences.set_index("model").loc[list(labels)]
    figure, axis = plt.subplots(figsize=(6.4, 0.6 + 0.27 * len(rows)))
    places = np.arange(len(rows))[::-1]
    clear = (rows["low"] > 0) | (rows["high"] < 0)
    for place, sure, (_, row) in zip(places, clear, rows.iterrows(), strict=True):
        colour = COLOURS[0] if sure else COLOURS[7]
        axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.5)
        axis.plot(row["difference"], place, "o", color=colour)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(places, labels.values())
    axis.set_xlabel("difference of the mean PSNR (dB)")
    axis.grid(axis="x", **GRID)
    return figure


@styled
def learning_curves(logs: Mapping, score: str = "psnr_sigma50") -> Figure:
    """A held-out score against the steps, a line a model. logs: {model: log.csv as a table}."""
    figure, axis = plt.subplots(figsize=(4.6, 2.9))
    for model, log in logs.items():
        rows = log.dropna(subset=[score])
        axis.plot(rows["step"], rows[score], label=model, **style(model))
    axis.set(xlabel="steps", ylabel="PSNR (dB)")
    axis.legend(loc="lower right")
    axis.grid(**GRID)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write path.png (150 dots per inch) and path.pdf, without dates, so that equal figures are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".pdf"), dpi=300, metadata={"CreationDate": None})
