"""Figures in the paper's manner: each function returns a matplotlib figure, `save` writes it as PNG and PDF."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from types import MappingProxyType

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.stats import norm

from ..data.images import to_array
from ..data.metrics import psnr, ssim
from ..data.noise import add_noise

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
NOTHING: Mapping = MappingProxyType({})


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


def differing_crop(a, b, side: int, least: bool = False) -> tuple[int, int]:
    """(top, left) of the square of that side in which two images H×W×3 differ most, or least, on a grid of 8 pixels."""
    difference = np.abs(to_array(a) - to_array(b)).mean(2)
    sums = np.pad(difference, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    means = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    means = means[::8, ::8]
    row, column = np.unravel_index(means.argmin() if least else means.argmax(), means.shape)
    return 8 * int(row), 8 * int(column)


@styled
def visual_comparison(clean, noisy, restored: Mapping, *, crop=None, side: int = 144, pair: tuple = ()) -> Figure:
    """The whole image with a box, the errors of two methods in the box, and the box as restored by each method.

    Args:
        clean: image, values in [0, 1].
        noisy: image.
        restored: {method: image}.
        crop: (top, left) of the box in pixels; by default the busiest square.
        side: of the box, in pixels.
        pair: two methods, whose absolute errors are drawn on one scale, and their difference; none by default.

    Returns:
        A figure as wide as a page; the PSNR below each square is the square's own, in dB.
    """
    clean, noisy = to_array(clean), to_array(noisy)
    side = min(side, *clean.shape[:2])
    top, left = crop or busiest_crop(clean, side)
    window = (slice(top, top + side), slice(left, left + side))
    squares = {"clean": clean, "noisy": noisy, **{name: to_array(image) for name, image in restored.items()}}
    rows = -(-len(squares) // 4)
    figure = plt.figure(figsize=(7.2, 2.15 + 2.1 * rows))
    above, below = figure.subfigures(2, 1, height_ratios=[2.15, 2.1 * rows])
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.04)
    whole, *maps = above.subplots(
        1, 1 + 3 * bool(pair), width_ratios=[1.3, 1, 1, 1][: 1 + 3 * bool(pair)], squeeze=False
    )[0]
    show(whole, clean, "the whole image")
    whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=COLOURS[4], linewidth=1.5))
    if pair:
        first, second = (np.abs(clean - squares[name].clip(0, 1))[window].mean(2) for name in pair)
        for axis, name, error in zip(maps, pair, (first, second), strict=False):
            errors = axis.imshow(error, cmap="viridis", vmin=0, vmax=0.12, interpolation="nearest")
            axis.set(xticks=[], yticks=[], title=f"error of {name}")
        signed = maps[2].imshow(first - second, cmap="PuOr_r", vmin=-0.06, vmax=0.06, interpolation="nearest")
        maps[2].set(xticks=[], yticks=[], title="difference of the errors")
        bar = {"orientation": "horizontal", "shrink": 0.8, "aspect": 30}
        above.colorbar(errors, ax=maps[:2], extend="max", **bar).set_label(
            "absolute error, 0 to 1 scale", fontsize=TINY
        )
        bar = above.colorbar(signed, ax=maps[2], extend="both", ticks=[-0.05, 0, 0.05], **bar)
        bar.set_label(f"above 0: {pair[1]} is closer", fontsize=TINY)
    axes = below.subplots(rows, 4, squeeze=False).flat
    for axis, (name, image) in zip(axes, squares.items(), strict=False):
        show(axis, image[window], name, "" if name == "clean" else f"{psnr(clean[window], image[window]):.2f} dB")
    for axis in list(axes)[len(squares) :]:
        axis.remove()
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
def enlarged(images: Mapping, clean) -> Figure:
    """Images of one size beside each other, and below each its square of most detail, with PSNR and SSIM.

    Args:
        images: {title: array H×W×3 in [0, 1]}.
        clean: what they are compared with; its own scores are left out.
    """
    side = max(16, min(clean.shape[:2]) // 4)
    top, left = busiest_crop(clean, side)
    figure, axes = plt.subplots(2, len(images), figsize=(2.5 * len(images), 5.4), squeeze=False)
    for (whole, square), (title, image) in zip(axes.T, images.items(), strict=True):
        scores = "" if image is clean else f"{psnr(clean, image):.2f} dB, SSIM {ssim(clean, image):.3f}"
        show(whole, image, title, scores)
        whole.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor="white", linewidth=1.5))
        show(square, image[top : top + side, left : left + side])
    return figure


@styled
def before_and_after(pairs: Mapping, clean) -> Figure:
    """{title: (noisy, restored)} in two rows, with PSNR against `clean`; arrays H×W×3 in [0, 1]."""
    figure, axes = plt.subplots(2, len(pairs), figsize=(2.5 * len(pairs), 5.6), squeeze=False)
    figure.get_layout_engine().set(hspace=0.05)
    for (above, below), (title, (noisy, restored)) in zip(axes.T, pairs.items(), strict=True):
        show(above, noisy, f"noisy, {title}", f"{psnr(clean, noisy):.2f} dB")
        show(below, restored, f"restored, {title}", f"{psnr(clean, restored):.2f} dB")
    return figure


@styled
def removed_noise(removed: np.ndarray) -> Figure:
    """What was removed from an image, and its power spectrum against the spatial frequency.

    Args:
        removed: H×W×3, noisy minus restored, in units of the image's range.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3))
    deviation = removed.std() or 1
    left.imshow((0.5 + removed / (6 * deviation)).clip(0, 1), interpolation="nearest")
    left.set(xticks=[], yticks=[], title="removed, grey = nothing")
    grey = removed.mean(2) - removed.mean()
    power = np.abs(np.fft.fft2(grey)) ** 2 / grey.size
    rows, columns = (np.fft.fftfreq(length) for length in grey.shape)
    distance = np.hypot(rows[:, None], columns[None])
    bins = np.linspace(0, 0.5, 26)
    middles, bin_of = (bins[1:] + bins[:-1]) / 2, np.digitize(distance, bins) - 1
    means = np.array([power[bin_of == i].mean() if (bin_of == i).any() else np.nan for i in range(len(middles))])
    right.plot(middles, 255**2 * means, color=COLOURS[0])
    right.set(xlabel="frequency, cycles a pixel", ylabel="power (0–255 scale)", yscale="log", title="power spectrum")
    right.set_ylim(255**2 * np.nanmean(means) / 30, 255**2 * np.nanmean(means) * 30)
    right.grid(**GRID)
    return figure


@styled
def row_of_images(
    images: Mapping, below: Mapping = MappingProxyType({}), boxes: Mapping = MappingProxyType({})
) -> Figure:
    """Images in a row, equally high.

    Args:
        images: {title: array H×W×3}.
        below: {title: text under the image}.
        boxes: {title: [(top, left, side)]} of squares to outline, pixels.
    """
    ratios = [image.shape[1] / image.shape[0] for image in images.values()]
    size = (7.2, 0.5 + 7 / sum(ratios))
    figure, axes = plt.subplots(1, len(images), figsize=size, width_ratios=ratios, squeeze=False)
    for axis, (title, image) in zip(axes[0], images.items(), strict=True):
        show(axis, image, title, below.get(title, ""))
        for top, left, side in boxes.get(title, ()):
            axis.add_patch(Rectangle((left, top), side, side, fill=False, edgecolor=COLOURS[4], linewidth=0.7))
    return figure


@styled
def two_rows(pairs: Sequence, labels: tuple[str, str]) -> Figure:
    """Pairs of images of one size, the first of each in the upper row; labels: of the rows."""
    figure, axes = plt.subplots(2, len(pairs), figsize=(7.2, 0.2 + 14.4 / len(pairs)), squeeze=False)
    for column, images in zip(axes.T, pairs, strict=True):
        for axis, image in zip(column, images, strict=True):
            show(axis, image)
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    return figure


def expected_bias(x: np.ndarray, sigma: float) -> np.ndarray:
    """Mean error of `8bit` noise in closed form: clipping at 0 and at 1, and truncation by half a level.

    Args:
        x: clean values in [0, 1].
        sigma: noise level, 0 to 255 scale, above 0.
    Returns:
        Mean of noisy minus clean, in units of [0, 1].
    """
    s = sigma / 255

    def cut_at_zero(x):
        return s * norm.pdf(x / s) - x * norm.cdf(-x / s)

    inside = norm.cdf((1 - x) / s) - norm.cdf(-x / s)  # what is clipped is on a level already
    return cut_at_zero(x) - cut_at_zero(1 - x) - inside * 0.5 / 255


@styled
def clipping_bias(clean: np.ndarray, sigma: float, seed: int, name: str) -> Figure:
    """Mean error of `8bit` noise against the clean value: measured, and `expected_bias`.

    Args:
        clean: uint8 H×W×3.
        sigma, seed, name: of the noise, see `add_noise`.
    """
    error = 255 * add_noise(clean, sigma, seed=seed, name=name, protocol="8bit") - clean.astype(float)
    counts = np.bincount(clean.flat, minlength=256)
    means = np.bincount(clean.flat, error.flat, 256) / np.maximum(counts, 1)
    often = counts >= 500
    levels = np.arange(256)
    figure, axis = plt.subplots(figsize=(6, 3))
    axis.plot(levels[often], means[often], ".", color=COLOURS[1], markersize=4, label="measured")
    axis.plot(levels, 255 * expected_bias(levels / 255, sigma), color=COLOURS[0], label="formula")
    axis.set(xlabel="clean value (0–255 scale)", ylabel="mean error", title=f"8bit noise, σ = {sigma:g}")
    axis.axhline(0, color="black", linewidth=0.6)
    axis.legend()
    axis.grid(**GRID)
    return figure


@styled
def error_histograms(errors: Mapping, bands: Mapping) -> Figure:
    """Distribution of the noise under each protocol, for bands of brightness.

    Args:
        errors: {protocol: noisy minus clean, 0 to 255 scale}.
        bands: {title: bool array of the same shape}.
    """
    figure, axes = plt.subplots(1, len(bands), figsize=(7.2, 2.4), sharey=True, squeeze=False)
    for axis, (title, band) in zip(axes[0], bands.items(), strict=True):
        for i, (protocol, error) in enumerate(errors.items()):
            filled = {"histtype": "stepfilled", "alpha": 0.35} if i else {"histtype": "step", "linewidth": 1.5}
            axis.hist(error[band], np.arange(-150, 151, 6), density=True, color=COLOURS[i], label=protocol, **filled)
        axis.set(title=title, xlabel="error (0–255 scale)")
    axes[0, 0].set_ylabel("density")
    axes[0, -1].legend()
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
def operations_with_size(sides: Sequence, counts: Mapping) -> Figure:
    """Operations for each pixel against the side of the image, a line for each model. counts: {model: values}."""
    figure, axis = plt.subplots(figsize=(5.2, 3))
    for model, values in counts.items():
        axis.plot(sides, np.asarray(values) / 1e6, label=model, **style(model))
    axis.set(xlabel="side of the image (pixels)", ylabel="million operations a pixel", yscale="log")
    axis.set_xticks(sides)
    axis.grid(**GRID)
    axis.legend()
    return figure


@styled
def forest(differences: pd.DataFrame, rows: str, panels: str, title: str = "") -> Figure:
    """Differences in dB with their 95% intervals: a line for each row, a panel for each group, one shared axis.

    Args:
        differences: columns difference, low and high, and the two that `rows` and `panels` name.
        rows: the column whose values label the lines, in their order from the top.
        panels: the column whose values are the panels' titles.
        title: of the figure.
    """
    labels, groups = list(dict.fromkeys(differences[rows])), list(dict.fromkeys(differences[panels]))
    size = (7.2, 0.95 + 0.24 * len(labels))
    figure, axes = plt.subplots(1, len(groups), figsize=size, sharex=True, sharey=True, squeeze=False)
    for axis, group in zip(axes[0], groups, strict=True):
        part = differences[differences[panels] == group].set_index(rows)
        for place, label in enumerate(labels):
            if label not in part.index:
                continue
            row = part.loc[label]
            colour = COLOURS[0] if row["low"] > 0 or row["high"] < 0 else COLOURS[7]
            axis.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.6)
            axis.plot(row["difference"], place, "o", color=colour)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(group)
        axis.grid(axis="x", **GRID)
    axes[0, 0].set_yticks(range(len(labels)), labels)
    axes[0, 0].set_ylim(len(labels) - 0.5, -0.5)
    figure.supxlabel("difference of the mean PSNR (dB)", fontsize=STYLE["axes.labelsize"])
    handles = [plt.Line2D([], [], color=COLOURS[i], marker="o") for i in (0, 7)]
    figure.legend(handles, ("interval without 0", "interval with 0"), loc="outside upper right", ncols=2)
    figure.suptitle(title, x=0.01, ha="left")
    return figure


@styled
def training_curves(log: pd.DataFrame, steps: int, title: str = "") -> Figure:
    """Loss and held-out PSNR of a training so far.

    Args:
        log: its log.csv, numbers.
        steps: of the whole training.
    """
    scored = log.dropna(subset="psnr_sigma50") if "psnr_sigma50" in log else log[:0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.6))
    left.plot(log["step"], log["loss"], color=COLOURS[0])
    left.set(xlabel="step", ylabel="L1 loss", xlim=(0, steps), ylim=(0, None))
    for sigma, colour, marker in zip((10, 25, 50), COLOURS, MARKERS, strict=False):
        if len(scored):
            right.plot(scored["step"], scored[f"psnr_sigma{sigma}"], color=colour, marker=marker, label=f"σ = {sigma}")
    right.set(xlabel="step", ylabel="held-out PSNR (dB)", xlim=(0, steps))
    if len(scored):
        figure.legend(loc="outside center right")
    for axis in (left, right):
        axis.grid(**GRID)
    figure.suptitle(title)
    return figure


@styled
def learning_rates(rates: Sequence) -> Figure:
    """The learning rate of every step."""
    figure, axis = plt.subplots(figsize=(4.5, 2.2))
    axis.plot(rates, color=COLOURS[0])
    axis.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    axis.grid(**GRID)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write path.png (150 dots per inch) and path.pdf, without dates, so that equal figures are equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
    figure.savefig(path.with_suffix(".pdf"), dpi=300, metadata={"CreationDate": None})
