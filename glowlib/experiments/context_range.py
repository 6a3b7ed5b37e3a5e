"""How far should context reach? The same networks on whole pictures and tiles: `python -m glowlib context-range`.

Networks learn global context on small crops; a whole picture, or a larger tile, is a context that they have not
seen (the train-test inconsistency of global pooling: Chu et al., "Improving Image Restoration by Revisiting Global
Information Aggregation", ECCV 2022).
"""

import argparse
from pathlib import Path

import pandas as pd

from ..data.datasets import load_dataset
from ..device import choose_device
from ..errors import exit_clearly
from ..evaluation.benchmark import run_benchmark, split_tile
from ..evaluation.statistics import paired_differences
from ..training.profiles import load_profile

SIGMAS = (10, 50)
TILES = ("64", "whole")  # against automatic tiles; 64 pixels is the size of the training crops


def differences(scores):
    """Mean PSNR of each network with other tiles less its own with automatic ones, and 95% intervals over the pictures.

    scores: the table of `run_benchmark`. Returns columns sigma, model, tile, difference, low, high (dB) and images.
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
    parser = argparse.ArgumentParser(prog="python -m glowlib context-range", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--out", type=Path, default=Path("results/runs/reach"), help="folder of the tables")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    args = parser.parse_args(argv)
    profile = load_profile("small")
    recipe = profile.training
    pictures = load_dataset(recipe.data)[-recipe.hold_out :]  # those that no training saw
    methods = [name for model in profile.models for name in (model, *(f"{model}@{tile}" for tile in TILES))]
    path = args.out / "reach.csv"
    scores = run_benchmark({recipe.data: pictures}, methods, SIGMAS, path, device=choose_device(args.device))
    print(differences(scores).to_string(index=False, float_format="%.3f"))
    print(f"picture by picture: {path}")
