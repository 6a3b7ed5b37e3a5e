"""The controlled study: networks that differ in one thing, several seeds: `python -m glowlib study --help`.

All networks of a profile restore the same noisy images in the same tiles. Two trainings with the same seed see the same
crops and noise, so differences are paired by seed; their spread over the seeds is the chance in training. A second
interval, a bootstrap over the images, holds the chance in the choice of test images.
"""

import argparse
import csv
from dataclasses import replace
from pathlib import Path

import pandas as pd

from ..device import choose_device
from ..errors import KitError, exit_clearly
from ..evaluation.statistics import answer, differences_over_seeds, holm, paired_differences, seed_paired_difference
from ..files import user_path, write_csv
from ..networks import create_model
from ..networks.base import parameter_count
from ..training.profiles import Profile, list_profiles, load_profile, plan
from ..training.run_folder import VALIDATION_SIGMAS, clear_write_errors
from ..training.sweep import run_piece, steps_done
from .cost import flops
from .score_profile import score_images, scored_images

HELD_OUT = tuple(f"psnr_sigma{sigma}" for sigma in VALIDATION_SIGMAS)
SCORE_COLUMNS = ("model", "seed", "dataset", "image", "sigma", "psnr", "ssim_rgb")
PRIMARY_SIGMA = (
    50  # fixed before the study: the first comparison of the profile at this noise level is its primary test
)


def run_folder(out, model, seed):
    """The folder of one training."""
    return Path(out) / f"{model}-seed{seed}"


def finished(profile, out, steps=None):
    """(model, seed, folder) of every training of the profile; KitError for one that has not made all its steps."""
    runs = []
    for seed in profile.seeds:
        for model in profile.models:
            folder, wanted = run_folder(out, model, seed), plan(profile, model, steps=steps)[3].steps
            if (done := steps_done(folder)) < wanted:
                raise KitError(f"{folder} has made {done} of {wanted} steps: run this again to continue")
            runs.append((model, seed, folder))
    return runs


def collect(profile, out, steps=None):
    """A table of the trainings: a row for each model and seed.

    Args:
        profile: a loaded profile with `models` and `seeds`.
        out: folder of the trainings.
        steps: number of steps of each training, where it is not the profile's.
    Returns:
        DataFrame with model, seed, steps, parameters, gflops_crop and gflops_tile (10⁹ operations of a forward pass of
        one training crop and of one tile), and the held-out PSNR in dB at each validation noise level and their mean.
    Raises:
        KitError: for a training that has not made all its steps.
    """
    rows = []
    for model, seed, folder in finished(profile, out, steps):
        _, network, options, recipe = plan(profile, model, steps=steps)
        net = create_model(network, **options)
        last = list(csv.DictReader((folder / "log.csv").open()))[-1]
        row = {"model": model, "seed": seed, "steps": recipe.steps, "parameters": parameter_count(net)}
        row |= {"gflops_crop": flops(net, recipe.crop) / 1e9, "gflops_tile": flops(net, profile.tile or 256) / 1e9}
        rows.append(row | {score: float(last[score]) for score in HELD_OUT})
    table = pd.DataFrame(rows)
    table["mean"] = table[list(HELD_OUT)].mean(axis=1)
    return table


def score(profile, out, steps=None, device="cpu"):
    """Per-image scores of every training, and of the profile's methods: DataFrame with SCORE_COLUMNS.

    A run's own rows are kept in its folder, so that an interrupted scoring continues. Methods that are not trained have
    no seed.
    """
    images, tile = scored_images(profile), f"@{profile.tile}" if profile.tile else ""
    tables = []
    for model, seed, folder in finished(profile, out, steps):
        method = f"{folder / 'model.safetensors'}{tile}"
        table = score_images(profile, images, [method], folder / "scores.csv", device=device)
        tables.append(table.assign(model=model, seed=seed))
    table = score_images(profile, images, profile.methods, Path(out) / "methods.csv", device=device)
    tables.append(table.assign(model=table["method"], seed=-1))
    return pd.concat(tables)[list(SCORE_COLUMNS)].reset_index(drop=True)


def part_of(profile: Profile, models=None, seeds=None) -> Profile:
    """A profile with some of its models and seeds only; KitError for those that it does not have."""
    for kind, given, known in (("model", models, profile.models), ("seed", seeds, profile.seeds)):
        if unknown := [value for value in given or () if value not in known]:
            raise KitError(f"profile {profile.name} has no {kind} {unknown[0]}; it has {', '.join(map(str, known))}")
    chosen = {name: options for name, options in profile.models.items() if not models or name in models}
    return replace(profile, models=chosen, seeds=tuple(seeds or profile.seeds))


def with_rows(table: pd.DataFrame, path: Path, profile: Profile) -> pd.DataFrame:
    """A table of trainings together with the rows of other trainings that a file has, in the profile's order.

    Args:
        table: columns model and seed, and more.
        path: a CSV file with the same columns, or one that does not exist.
        profile: its models give the order.
    """
    if path.exists():
        earlier = pd.read_csv(path)
        new = set(zip(table["model"], table["seed"], strict=True))
        kept = [key not in new for key in zip(earlier["model"], earlier["seed"], strict=True)]
        table = pd.concat([earlier[kept], table])
    order = {model: i for i, model in enumerate(profile.models)}
    ranks = table["model"].map(lambda model: order.get(model, -1))
    return table.assign(rank=ranks).sort_values(["seed", "rank"], kind="stable").drop(columns="rank")


def compare(scores, comparisons):
    """Differences of set means between pairs of models, paired by seed, with intervals and verdicts.

    Args:
        scores: DataFrame with SCORE_COLUMNS.
        comparisons: pairs (a, b) of models; the first pair at PRIMARY_SIGMA is the primary test. Pairs without two
            seeds that both models have are left out.
    Returns:
        DataFrame with a, b, dataset, sigma, seeds; difference (mean of a - b over images and seeds, dB), low and high
        (95%, Student's t over the seeds), image_low and image_high (95% bootstrap over the images, seeds averaged), p
        (two-sided t-test), p_holm (Holm's correction over all rows but the primary ones), primary, verdict.
    """
    rows = []
    for number, (a, b) in enumerate(comparisons):
        seeds = set.intersection(*(set(scores.loc[scores["model"] == model, "seed"]) for model in (a, b)))
        if len(seeds) < 2:
            continue
        part = scores[scores["model"].isin((a, b)) & scores["seed"].isin(seeds)]
        images = paired_differences(part.assign(method=part["model"], protocol="float"), [a, b])
        for image in images.itertuples():
            here = part[(part["dataset"] == image.dataset) & (part["sigma"] == image.sigma)]
            means = here.pivot_table("psnr", "seed", "model")
            difference, low, high, p = seed_paired_difference(means[a], means[b])
            row = {"a": a, "b": b, "dataset": image.dataset, "sigma": image.sigma, "seeds": len(means)}
            row |= {
                "difference": difference,
                "low": low,
                "high": high,
                "image_low": image.low,
                "image_high": image.high,
            }
            primary = number == 0 and image.sigma == PRIMARY_SIGMA
            rows.append(row | {"p": p, "primary": primary, "verdict": answer(low, high)})
    if not rows:
        raise KitError("no comparison of the profile has two seeds of both its models yet")
    table = pd.DataFrame(rows)
    table["p_holm"] = table["p"]
    explored = ~table["primary"]
    table.loc[explored, "p_holm"] = holm(table.loc[explored, "p"].to_numpy())
    return table


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m glowlib study",
        description=__doc__.split(":")[0] + ".",
        epilog="Options that are not listed here go to python -m glowlib.training, such as --lr.",
        allow_abbrev=False,
    )
    parser.add_argument("--profile", default="study", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--out", type=user_path, help="folder of runs and tables (default: results/runs/PROFILE)")
    parser.add_argument("--results", type=user_path, help="folder of tables; other trainings' rows stay (default: OUT)")
    parser.add_argument("--models", nargs="+", help="some of the profile's models (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="some of the profile's seeds (default: all)")
    parser.add_argument(
        "--minutes", type=float, default=24 * 60, help="stop after that many minutes; run again to continue"
    )
    parser.add_argument("--steps", type=int, help="of each training (default: the profile's)")
    parser.add_argument("--at_once", type=int, default=1, help="trainings side by side, such as one for each core")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    args, more = parser.parse_known_args(argv)
    whole = load_profile(args.profile)
    out = args.out or Path("results/runs") / whole.name
    results = args.results or out
    if own := [option for option in more if option.split("=")[0] in ("--seed", "--model")]:
        raise KitError(f"{own[0]} cannot be given here: the profile lists the seeds and models; see --seeds, --models")
    if len(whole.seeds) < 2:
        raise KitError(f"profile {whole.name} has one seed: a spread needs at least two")
    profile = part_of(whole, args.models, args.seeds)
    jobs = {}
    for seed in profile.seeds:
        for model in profile.models:
            folder = run_folder(out, model, seed)
            given = ["--profile", args.profile, "--model", model, "--seed", str(seed), "--out", str(folder)]
            given += ["--steps", str(args.steps)] if args.steps else []
            given += ["--device", args.device] if args.device else []
            jobs[folder] = [*more, *given]
    if failed := run_piece(jobs, args.minutes, max(1, args.at_once), {}):
        raise KitError("; ".join(failed))
    with clear_write_errors(results):
        results.mkdir(parents=True, exist_ok=True)
    runs = with_rows(collect(profile, out, args.steps), results / "runs.csv", whole)
    write_csv(results / "runs.csv", runs.columns, runs.round(4).to_dict("records"))
    if profile.datasets:
        scores = score(profile, out, args.steps, choose_device(args.device))
        scores = with_rows(scores.round(4), results / "scores.csv", whole)
        write_csv(results / "scores.csv", SCORE_COLUMNS, scores.to_dict("records"))
        found = compare(scores, profile.comparisons)
    else:
        found = differences_over_seeds(runs, (*HELD_OUT, "mean"))
    write_csv(results / "differences.csv", found.columns, found.round(4).to_dict("records"))
    print(found.to_string(index=False, float_format="%.3f"))
    print(f"tables in {results}: {', '.join(path.name for path in sorted(results.glob('*.csv')))}")
