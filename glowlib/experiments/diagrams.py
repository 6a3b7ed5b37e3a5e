"""Drawings of what is inside the networks: position bias, windows, masks, influence, attention."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle

from ..networks.config import ModelConfig
from .attention_maps import AttentionWeights
from .figures import COLOURS, GRID, SMALL, TINY, show, style, styled
from .influence import beyond


def bare(axis, title: str = "") -> None:
    """An axis without ticks."""
    axis.set(xticks=[], yticks=[], title=title)


@styled
def position_bias(index: torch.Tensor, layers) -> Figure:
    """The index of the relative position bias, and the tables of window attentions (first head).

    Args:
        index: (window², window²).
        layers: `WindowAttention` modules.
    """
    figure, axes = plt.subplots(1, 1 + len(layers), figsize=(7.2, 2.4))
    axes[0].imshow(index.numpy(), cmap="viridis")
    bare(axes[0], "index")
    axes[0].set(xlabel="key", ylabel="query")
    for i, (axis, layer) in enumerate(zip(axes[1:], layers, strict=True)):
        table = layer.relative_position_bias_table[:, 0].detach()
        side = round(len(table) ** 0.5)
        largest = float(table.abs().max())
        drawn = axis.imshow(table.reshape(side, side).numpy(), cmap="RdBu_r", vmin=-largest, vmax=largest)
        bare(axis, f"stage {i}")
        bar = figure.colorbar(drawn, ax=axis, orientation="horizontal", shrink=0.8, ticks=[-largest, 0, largest])
        bar.ax.set_xticklabels([f"{-largest:.2g}", "0", f"{largest:.2g}"])
    return figure


@styled
def shifted_windows(height: int, width: int, window: int, shift: int, mask: torch.Tensor) -> Figure:
    """A grid of tokens with the windows of two blocks, and the masks of four windows.

    Args:
        height, width: of the grid, tokens.
        window: side of a window, tokens.
        shift: of the second block's windows, tokens.
        mask: (windows, window², window²), of the second block.
    """
    figure, axes = plt.subplots(1, 5, figsize=(7.2, 2.2), width_ratios=[1.9, 1, 1, 1, 1])
    axis = axes[0]
    axis.imshow(np.full((height, width), 0.9), cmap="gray", vmin=0, vmax=1)
    for top in range(0, height, window):
        for left in range(0, width, window):
            axis.add_patch(Rectangle((left - 0.5, top - 0.5), window, window, fill=False, edgecolor=COLOURS[0], lw=1.5))
    for place in range(shift, height, window):
        axis.axhline(place - 0.5, color=COLOURS[1], linestyle="--", linewidth=1.2)
    for place in range(shift, width, window):
        axis.axvline(place - 0.5, color=COLOURS[1], linestyle="--", linewidth=1.2)
    bare(axis, "windows; dashed: shifted")
    across = round((len(mask) * width / height) ** 0.5)
    chosen = {"inside": 0, "right": across - 1, "lower": len(mask) - across, "corner": len(mask) - 1}
    for axis, (title, i) in zip(axes[1:], chosen.items(), strict=True):
        axis.imshow(mask[i].numpy() < 0, cmap=ListedColormap(["#f4f4f4", COLOURS[1]]), vmin=0, vmax=1)
        bare(axis, title)
    axes[1].set_ylabel("query", fontsize=SMALL)
    axes[1].set_xlabel("key (orange: masked)", fontsize=SMALL)
    return figure


@styled
def influence_map(*influences: torch.Tensor, titles: tuple[str, ...] = ()) -> Figure:
    """Maps of `influence.reached` on one logarithmic scale; white: no influence."""
    figure, axes = plt.subplots(1, len(influences), figsize=(min(7.2, 3.4 * len(influences)), 3), squeeze=False)
    colours = plt.get_cmap("viridis").with_extremes(bad="white")
    for axis, influence, title in zip(axes[0], influences, titles or [""] * len(influences), strict=True):
        relative = influence / influence.max()
        logarithm = np.ma.masked_invalid(np.log10(np.where(relative > 0, relative, np.nan)))
        drawn = axis.imshow(logarithm, cmap=colours, vmin=-8, vmax=0)
        bare(axis, title)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, ticks=[-8, -4, 0])
    bar.ax.set_yticklabels(["$10^{-8}$", "$10^{-4}$", "1"])
    bar.set_label("influence, largest = 1")
    return figure


@styled
def influence_with_distance(influences: dict) -> Figure:
    """Share of the influence from beyond each distance, for several networks.

    Args:
        influences: {method: maps of `influence.reached`}, several for each network; their mean is drawn.
    """
    figure, axis = plt.subplots(figsize=(6, 3.2))
    for method, maps in influences.items():
        radii = np.arange(0, 0.5 * min(maps[0].shape), 4)
        shares = np.mean([beyond(influence, radii) for influence in maps], axis=0)
        axis.plot(radii, 100 * shares, label=method, **style(method), markevery=4)
    axis.set(xlabel="distance r from the pixel (pixels)", ylabel="influence from beyond r, %", yscale="log")
    axis.grid(**GRID)
    axis.legend()
    return figure


@styled
def pooling_maps(images: dict, maps: dict) -> Figure:
    """Pooling weights of the blocks of a context chain, relative to equal weights, on a logarithmic scale.

    Args:
        images: {label: image H×W×3}, one row each.
        maps: {label: [weights (H, W), a block each]}, each summing to 1.
    """
    relative = {label: [np.log2(w * w.size) for w in weights] for label, weights in maps.items()}
    limit = max(np.percentile(np.abs(weights), 95) for weights in relative.values())
    columns = 1 + len(next(iter(maps.values())))
    figure, axes = plt.subplots(len(images), columns, figsize=(7.2, 1.65 * len(images)), squeeze=False)
    for i, (label, image) in enumerate(images.items()):
        show(axes[i, 0], image)
        axes[i, 0].set_ylabel(label)
        for k, weights in enumerate(relative[label]):
            drawn = axes[i, 1 + k].imshow(weights, cmap="PuOr_r", vmin=-limit, vmax=limit)
            bare(axes[i, 1 + k], "" if i else f"block {k}")
    figure.colorbar(drawn, ax=axes, shrink=0.8, extend="both").set_label("log₂ (weight / equal share)")
    return figure


@styled
def attention_panels(
    image, found: list[AttentionWeights], stages: tuple[str, ...], places: tuple, heads: int = 2
) -> Figure:
    """Where tokens attend to, in some stages and heads; each panel has its own logarithmic scale.

    Args:
        image: H×W×3.
        found: of `cross_attention_weights` on that image.
        stages: names of the stages to draw.
        places: of the queries, one row each: (row, column) as fractions of the image's sides.
        heads: the most to draw of a stage.
    """
    height, width = image.shape[:2]
    chosen = [(part, head) for part in found if part.stage in stages for head in range(min(heads, len(part.weights)))]
    figure, axes = plt.subplots(len(places), 1 + len(chosen), figsize=(7.2, 1.55 * len(places)), squeeze=False)
    for i, (row, (down, right)) in enumerate(zip(axes, places, strict=True)):
        show(row[0], image)
        for axis, (part, head) in zip(row[1:], chosen, strict=True):
            h, w = part.grid
            query = min(int(down * h), h - 1) * w + min(int(right * w), w - 1)
            values = np.log10(part.weights[head, query].reshape(h, w).numpy() + 1e-12)
            low, high = np.percentile(values, (5, 99.8))
            axis.imshow(values, cmap="magma", vmin=low, vmax=max(high, low + 0.01), extent=(0, width, height, 0))
            bare(axis, "" if i else f"{part.stage}\nhead {head}")
        for axis in row:
            axis.plot(right * width, down * height, "s", mfc="none", mec="white", mew=2.5, markersize=6)
            axis.plot(right * width, down * height, "s", mfc="none", mec="black", mew=1, markersize=6)
    return figure


def box(axis, x: float, y: float, text: str, colour: str) -> None:
    """A labelled box of an architecture diagram."""
    look = {"boxstyle": "round,pad=0.02", "facecolor": "white", "edgecolor": colour, "linewidth": 1.3}
    axis.add_patch(FancyBboxPatch((x - 0.43, y - 0.24), 0.86, 0.48, **look))
    axis.text(x, y, text, ha="center", va="center", fontsize=TINY)


def arrow(axis, start, end, colour: str, bend: float = 0.0, head: str = "-|>") -> None:
    """A line with a head from start to end."""
    line = {"arrowstyle": head, "color": colour, "connectionstyle": f"arc3,rad={bend}", "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=line)


@styled
def two_architectures(glownet: ModelConfig, sglownet: ModelConfig) -> Figure:
    """GLOWNet and S-GLOWNet: stages with their channels, context maps, skips, and the place of the denoising head."""
    windows, context, skip = COLOURS[0], COLOURS[1], "grey"
    names = [f"encoder {i}" for i in range(4)] + ["up-sample"] + [f"decoder {k}" for k in (1, 2, 3)]
    attended = ["G1", "G2", "G3", "G3", "", "G1", "G0", "G0"]
    figure, panels = plt.subplots(2, 1, figsize=(7.6, 5.8))
    titled = {"GLOWNet, in parallel": glownet, "S-GLOWNet, in sequence": sglownet}
    for axis, (title, config) in zip(panels, titled.items(), strict=True):
        channels = [config.embed_dim * 2**i for i in (0, 1, 2, 3, 3, 2, 1, 0)]
        stages = [f"{name}\n{count} ch." for name, count in zip(names, channels, strict=True)]
        axis.set_title(title, loc="left", pad=10)
        axis.set(xlim=(-1.5, 8.5), ylim=(-0.1, 2.9))
        axis.axis("off")
        box(axis, -1, 1.5, "image", "black")
        box(axis, 8, 1.5, "restored", "black")
        arrow(axis, (-0.57, 1.5), (-0.43, 1.5), "black")
        arrow(axis, (7.43, 1.5), (7.57, 1.5), "black")
        for i, stage in enumerate(stages):
            box(axis, i, 1.5, stage, windows)
            if i < 7:
                arrow(axis, (i + 0.43, 1.5), (i + 0.57, 1.5), windows)
            if i < 3:  # the input of encoder stage i joins that of decoder stage 3 - i
                arrow(axis, (i - 0.3, 1.76), (7 - i - 0.3, 1.76), skip, bend=-0.22)
        line = {"arrowstyle": "-", "lw": 0.6}
        axis.annotate("head", (3.5, 1.48), (3.5, 1.0), ha="center", va="top", fontsize=TINY, arrowprops=line)
        if title.startswith("GLOWNet"):
            arrow(axis, (-1, 1.24), (-1, 0.25), context, head="-")
            arrow(axis, (-1, 0.25), (-0.43, 0.25), context)
            for i in range(8):
                box(axis, i, 0.25, f"map\n{channels[i]} ch.", context)
                if i < 7:
                    arrow(axis, (i + 0.43, 0.25), (i + 0.57, 0.25), context)
                if i < 3:
                    arrow(axis, (i - 0.3, -0.01), (7 - i - 0.3, -0.01), skip, bend=0.08)
                if i != 4:
                    arrow(axis, (i, 0.51), (i, 1.24), context)
        else:
            box(axis, -1, 0.25, "context\nbranch", context)
            arrow(axis, (-1, 1.24), (-1, 0.51), context)
            axis.plot([-0.57, 7], [0.25, 0.25], color=context, linewidth=1.3)
            for i, name in enumerate(attended):
                if name:
                    arrow(axis, (i, 0.25), (i, 1.24), context)
                    axis.text(i + 0.08, 0.72, name, color=context)
    legend = (("windows", windows), ("context; arrows up: cross-attention", context), ("skip connections", skip))
    handles = [plt.Line2D([], [], color=colour, label=label) for label, colour in legend]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
