"""What a trained network uses of its context: one part is changed at test time: `python -m glowlib interventions`.

No network is trained again, so a loss shows what these weights rely on, not what networks without the part would reach.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from ..data.datasets import load_dataset
from ..data.images import centre_crop
from ..data.metrics import psnr
from ..data.noise import add_noise
from ..device import choose_device
from ..errors import KitError, exit_clearly
from ..evaluation.statistics import paired_differences
from ..files import user_path, write_csv
from ..networks import cross_attention, fast
from ..networks.attention import attention
from ..networks.cross_attention import CrossAttn, ResidualInsideAttn
from ..networks.global_context import GlobalContextBlock, GlobalContextChain
from ..networks.pretrained import load_pretrained
from ..training.profiles import load_profile

SIGMAS = (10, 25, 50)
RADII = (64, 32, 16, 8)  # pixels
COLUMNS = ("network", "intervention", "dataset", "image", "sigma", "psnr")
CROSS_ATTENTION = (CrossAttn, ResidualInsideAttn)


def within_radius(grid: tuple[int, int], radius: float) -> torch.Tensor:
    """(h·w, h·w) bool: whether two tokens of a grid, in row-major order, are at most `radius` tokens apart."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], dim=1).float()
    return torch.cdist(places, places) <= radius


@contextmanager
def attention_of(function) -> Iterator[None]:
    """Context manager in which all cross-attention computes `function(q, k, v, num_heads, grid, reach)`."""
    own = cross_attention.attend
    cross_attention.attend = function
    try:
        yield
    finally:
        cross_attention.attend = own


def confined_to(radius: float, width: int):
    """Cross-attention whose queries attend to keys within `radius` pixels, on an image of `width` pixels."""

    def attend(q, k, v, num_heads, grid, reach=None):
        mask = within_radius(grid, radius * grid[1] / width).to(q.device)
        q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        return attention(q, k, v, torch.where(mask, 0.0, -torch.inf)).transpose(1, 2).flatten(2)

    return attend


def uniform_attention(q, k, v, num_heads, grid, reach=None):
    """Cross-attention with equal weights: every query receives the mean of the values."""
    return v.mean(dim=1, keepdim=True).expand_as(q)


@contextmanager
def hooked(handles) -> Iterator[None]:
    """Context manager that removes hooks at its end."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def before_each(modules, hook) -> Iterator[None]:
    """Context manager in which `hook(module, inputs)` runs before each module's forward pass."""
    with hooked([module.register_forward_pre_hook(hook) for module in modules]):
        yield


@contextmanager
def without_chains(net: nn.Module) -> Iterator[None]:
    """Context manager in which the global context blocks of a network change nothing."""
    chains = [module for module in net.modules() if isinstance(module, GlobalContextChain)]
    with hooked([chain.register_forward_hook(lambda chain, inputs, output: inputs[0]) for chain in chains]):
        yield


@contextmanager
def context_of(net: nn.Module, other: torch.Tensor) -> Iterator[None]:
    """Context manager in which a network takes its context from another image.

    The context is the feature maps that cross-attention receives, or, where a network has no cross-attention, the
    vectors that its global context blocks pool.

    Args:
        net: a network.
        other: (1, 3, H, W), as large as the images that are restored inside.
    """
    recorded = {}
    attending = [module for module in net.modules() if isinstance(module, CROSS_ATTENTION)]
    if attending:
        with before_each(attending, lambda module, inputs: recorded.update({module: inputs[1]})):
            net(other)
        with before_each(attending, lambda module, inputs: (inputs[0], recorded[module])):
            yield
        return
    blocks = [module for module in net.modules() if isinstance(module, GlobalContextBlock)]
    for block in blocks:
        block.pool = partial(recorded_pool, block, recorded)
    try:
        net(other)
        yield
    finally:
        for block in blocks:
            del block.pool


def recorded_pool(block: GlobalContextBlock, recorded: dict, x: torch.Tensor) -> torch.Tensor:
    """The context vector of the first feature map that a block pooled."""
    if block not in recorded:
        recorded[block] = GlobalContextBlock.pool(block, x)
    return recorded[block]


def interventions(net: nn.Module, other: torch.Tensor) -> dict:
    """{name: context manager} of the interventions that apply to a network.

    Args:
        net: a network.
        other: (1, 3, H, W), the noisy image whose context is swapped in.
    """
    parts = {type(module) for module in net.modules()}
    found = {}
    if parts.intersection(CROSS_ATTENTION):
        width = other.shape[-1]
        found |= {f"radius {radius}": attention_of(confined_to(radius, width)) for radius in RADII}
        found["uniform"] = attention_of(uniform_attention)
    if GlobalContextBlock in parts:
        found["swapped"] = context_of(net, other)
        found["chain removed"] = without_chains(net)
    return found


@torch.inference_mode()
def measure(net: nn.Module, images, sigmas=SIGMAS) -> Iterator[dict]:
    """Score a network on each image as it is and under each intervention.

    Args:
        net: in eval mode.
        images: [(name, uint8 array H×W×3)], all of one size; the context that is swapped in is that of the image
            before, with its own noise of the same level.
        sigmas: noise levels, 0 to 255 scale, `float` noise.
    Yields:
        {"intervention", "image", "sigma", "psnr"}; the network as it is has the intervention "none".
    """
    device = next(net.parameters()).device
    for sigma in sigmas:
        noisy = [add_noise(clean, sigma, seed=0, name=name) for name, clean in images]
        noisy = [torch.from_numpy(image).permute(2, 0, 1)[None].float().to(device) for image in noisy]
        for i, (name, clean) in enumerate(images):
            row = {"image": name, "sigma": sigma}
            with fast.disabled():  # hooks and blocks are bypassed in the optimised form
                yield {"intervention": "none", **row, "psnr": psnr(clean, net(noisy[i]))}
                for intervention, changed in interventions(net, noisy[i - 1]).items():
                    with changed:
                        yield {"intervention": intervention, **row, "psnr": psnr(clean, net(noisy[i]))}


def losses(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean PSNR under each intervention minus that of the network as it is.

    Args:
        scores: a table with COLUMNS.
    Returns:
        Columns network, intervention, sigma, difference, low, high (dB; 95% bootstrap over the images), images.
    """
    parts = []
    for (network, intervention), part in scores.groupby(["network", "intervention"], sort=False):
        if intervention == "none":
            continue
        own = scores[(scores["network"] == network) & (scores["intervention"] == "none")]
        both = pd.concat([part, own]).rename(columns={"intervention": "method"}).assign(protocol="float")
        pairs = paired_differences(both, [intervention, "none"])
        parts.append(pairs.assign(network=network, intervention=intervention))
    columns = ["network", "intervention", "sigma", "difference", "low", "high", "images"]
    return pd.concat(parts)[columns].reset_index(drop=True)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib interventions", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=user_path, default=Path("results/runs/interventions"), help="folder for the table"
    )
    parser.add_argument("--side", type=int, default=128, help="of the centre crops, pixels (default: 128)")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    args = parser.parse_args(argv)
    if args.side < 1:
        raise KitError(f"--side is a number of pixels from 1 up, not {args.side}")
    profile = load_profile("small")
    recipe = profile.training
    held_out = load_dataset(recipe.data)[-recipe.hold_out :]  # not used in any training
    images = [(name, np.ascontiguousarray(centre_crop(image, args.side))) for name, image in held_out]
    path, rows = args.out / "interventions.csv", []
    path.parent.mkdir(parents=True, exist_ok=True)
    for model in tqdm(profile.models):
        net = load_pretrained(model).to(choose_device(args.device))
        found = ({"network": model, "dataset": recipe.data, **row} for row in measure(net, images))
        rows += [{**row, "psnr": f"{row['psnr']:.4f}"} for row in found]
        write_csv(path, COLUMNS, rows)
    print(losses(pd.read_csv(path)).to_string(index=False, float_format="%.3f"))
    print(f"scores of each image: {path}")
