"""How far should context reach? The shipped models on whole images and on tiles: `python -m glowlib context-range`.

The networks learn global context on small training crops. At test time a whole image, or a large tile, gives them a
context of another size (the train-test inconsistency of global pooling: Chu et al., "Improving Image Restoration by
Revisiting Global Information Aggregation", ECCV 2022).
"""

import argparse
from pathlib import Path

import pandas as pd

from ..data.datasets import load_dataset
from ..device import choose_device
from ..errors import exit_clearly
from ..evaluation.benchmark import run_benchmark, split_tile
from ..evaluation.statistics import paired_differences
from ..files import user_path
from ..training.profiles import load_profile

SIGMAS = (10, 50)
TILES = ("64", "whole")  # compared with automatic tiles; 64 pixels is the side of the training crops


def differences(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean PSNR of each network with other tiles minus its PSNR with automatic tiles.

    Args:
        scores: the table of `run_benchmark`, with methods "<model>" and "<model>@<tile>" for each of TILES.
    Returns:
        Columns sigma, model, tile, difference, low, high (dB; the ends are of a 95% interval over the images) and
        images (their number).
    """
    parts = []
    for model in dict.fromkeys(split_tile(name)[0] for name in scores["method"]):
        for tile in TILES:
            part = paired_differences(scores, [f"{model}@{tile}", model])
            parts.append(part.assign(model=model, tile=tile))
    columns = ["sigma", "model", "tile", "difference", "low", "high", "images"]
    return pd.concat(parts)[columns].reset_index(drop=True)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib context-range", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=user_path, default=Path("results/runs/reach"), help="folder for the table")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the fastest there is)")
    args = parser.parse_args(argv)
    profile = load_profile("small")
    recipe = profile.training
    images = load_dataset(recipe.data)[-recipe.hold_out :]  # not used in any training
    methods = [name for model in profile.models for name in (model, *(f"{model}@{tile}" for tile in TILES))]
    path = args.out / "reach.csv"
    scores = run_benchmark({recipe.data: images}, methods, SIGMAS, path, device=choose_device(args.device))
    print(differences(scores).to_string(index=False, float_format="%.3f"))
    print(f"scores of each image: {path}")
