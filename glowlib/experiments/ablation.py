"""One change at a time, each trained with several seeds: `python -m glowlib ablation --help`.

What differs between two trainings of one network with different seeds is chance. Its spread, pooled over all networks,
says how large a difference between two networks has to be before it means something.
"""

import argparse
import csv
from pathlib import Path

import pandas as pd

from ..errors import KitError, exit_clearly
from ..evaluation.statistics import differences_over_seeds
from ..networks import create_model
from ..networks.base import parameter_count
from ..training.profiles import list_profiles, load_profile, plan
from ..training.run_folder import VALIDATION_SIGMAS
from ..training.sweep import run_piece, steps_done
from .cost import flops

SCORES = tuple(f"psnr_sigma{sigma}" for sigma in VALIDATION_SIGMAS)


def run_folder(out, model, seed):
    return Path(out) / f"{model}-seed{seed}"


def collect(profile, out, steps=None):
    """A row for each finished training: model, seed, parameters, gflops (256×256 pixels), and its held-out PSNR in dB.

    steps: how long each is, where that is not what the profile says.
    Raises KitError for a training that has not made all its steps.
    """
    rows = []
    for model in profile.models:
        _, network, options, recipe = plan(profile, model, steps=steps)
        net = create_model(network, **options)
        size = {"parameters": parameter_count(net), "gflops": flops(net) / 1e9}
        for seed in profile.seeds:
            folder = run_folder(out, model, seed)
            done = steps_done(folder)
            if done < recipe.steps:
                raise KitError(f"{folder} has made {done} of {recipe.steps} steps: run this again to go on")
            last = list(csv.DictReader((folder / "log.csv").open()))[-1]
            rows.append({"model": model, "seed": seed, **size} | {score: float(last[score]) for score in SCORES})
    table = pd.DataFrame(rows)
    table["mean"] = table[list(SCORES)].mean(axis=1)
    return table


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m glowlib ablation",
        description=__doc__.split(":")[0] + ".",
        epilog="What is not listed here goes to python -m glowlib.training as it is, such as --lr.",
    )
    parser.add_argument("--profile", default="ablations", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--out", type=Path, default=Path("results/runs/ablations"), help="folder of runs and tables")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="stop after that long; run again to go on")
    parser.add_argument("--steps", type=int, help="of each training (default: the profile's)")
    parser.add_argument("--at_once", type=int, default=1, help="trainings side by side, such as one a core")
    args, more = parser.parse_known_args(argv)
    profile = load_profile(args.profile)
    if own := [option for option in more if option.split("=")[0] in ("--seed", "--model")]:
        raise KitError(f"{own[0]} is the profile's to say: seeds and models stand in its YAML file")
    if len(profile.seeds) < 2:
        raise KitError(f"profile {profile.name} has one seed: a spread needs at least two")
    jobs = {}
    for seed in profile.seeds:
        for model in profile.models:
            folder = run_folder(args.out, model, seed)
            given = ["--profile", args.profile, "--model", model, "--seed", str(seed), "--out", str(folder)]
            jobs[folder] = [*more, *given, *(["--steps", str(args.steps)] if args.steps else [])]
    if failed := run_piece(jobs, args.minutes, max(1, args.at_once), {}):
        raise KitError("; ".join(failed))
    runs = collect(profile, args.out, args.steps)
    runs.to_csv(args.out / "runs.csv", index=False, float_format="%.4f")
    found = differences_over_seeds(runs, (*SCORES, "mean"))
    found.to_csv(args.out / "differences.csv", index=False, float_format="%.4f")
    print(found[found["score"] == "mean"].drop(columns="score").to_string(index=False, float_format="%.2f"))
    print(f"in {args.out}: runs.csv, differences.csv")
