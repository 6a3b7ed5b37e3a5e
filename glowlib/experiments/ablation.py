"""One change at a time, each trained with several seeds: `python -m glowlib.ablation --help`.

What differs between two trainings of one network with different seeds is chance. Its spread, pooled over all networks,
says how large a difference between two networks has to be before it means something.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ..training.sweep import run_piece, steps_done
from ..networks.convert import parameter_count
from .cost import flops
from ..errors import KitError, exit_clearly
from ..networks import create_model
from ..training.profiles import list_profiles, load_profile
from ..training.optim import plan
from ..training.run_folder import VALIDATION_SIGMAS

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


def differences(runs):
    """Each model's mean over seeds less the first model's, with a 95% interval, for every score.

    The interval is Student's, from the spread over seeds, pooled over the models: it holds what chance in training
    does, on the same pictures. Every model has the same seeds. Returns columns model, score, difference, low, high.
    """
    first, *others = runs["model"].unique()
    seeds = runs["seed"].nunique()
    freedom = runs["model"].nunique() * (seeds - 1)
    rows = []
    for score in (*SCORES, "mean"):
        by_model = runs.groupby("model", sort=False)[score]
        spread = np.sqrt(((runs[score] - by_model.transform("mean")) ** 2).sum() / freedom)
        half = student.ppf(0.975, freedom) * spread * np.sqrt(2 / seeds)
        means = by_model.mean()
        for model in others:
            difference = means[model] - means[first]
            rows.append((model, score, difference, difference - half, difference + half))
    return pd.DataFrame(rows, columns=["model", "score", "difference", "low", "high"])


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m glowlib.ablation",
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
    found = differences(runs)
    found.to_csv(args.out / "differences.csv", index=False, float_format="%.4f")
    print(found[found["score"] == "mean"].drop(columns="score").to_string(index=False, float_format="%.2f"))
    print(f"in {args.out}: runs.csv, differences.csv")


if __name__ == "__main__":
    main()
