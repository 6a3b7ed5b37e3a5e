"""Score a profile's methods on its test sets: one tidy table, a row an image; and its summary."""

import argparse

import pandas as pd

from ..data.datasets import load_dataset
from ..data.images import centre_crop
from ..device import choose_device
from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import run_benchmark
from ..evaluation.tables import summarise
from ..files import user_path
from ..training.profiles import Profile, list_profiles, load_profile


def scored_images(profile: Profile, names=None) -> dict[str, list]:
    """The images that a profile's methods are scored on.

    Args:
        profile: names the data sets, and those of which only the central crop is used.
        names: other data sets than the profile's.
    Returns:
        {data set: [(file name, uint8 array H×W×3)]}.
    Raises:
        KitError: a set that is not there, or is not the one it should be; see `load_dataset`.
    """
    sides = profile.centre_crops
    return {
        name: [
            (file, centre_crop(image, sides[name]) if name in sides else image) for file, image in load_dataset(name)
        ]
        for name in names or profile.datasets
    }


def score_images(profile: Profile, images: dict[str, list], methods, path, sigmas=None, **settings) -> pd.DataFrame:
    """Score methods on images at the noise levels that the profile has for each data set.

    Args:
        profile: its `sigmas` and `set_sigmas` are the noise levels.
        images: from `scored_images`.
        methods, path, settings: see `run_benchmark`.
        sigmas: other noise levels than the profile's, for all data sets.
    Returns:
        The table of `run_benchmark`.
    """
    groups = {}
    for name in images:
        groups.setdefault(tuple(sigmas or profile.sigmas_of(name)), []).append(name)
    tables = [
        run_benchmark({name: images[name] for name in names}, methods, levels, path, **settings)
        for levels, names in groups.items()
    ]
    return pd.concat(tables, ignore_index=True)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib benchmark", description=__doc__)
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(list_profiles())}")
    parser.add_argument("--datasets", nargs="+", help="other test sets (default: the profile's)")
    parser.add_argument("--sigmas", nargs="+", type=float, help="other noise levels (default: the profile's)")
    parser.add_argument("--images", type=int, help="as many of each dataset, spread evenly (default: all)")
    parser.add_argument("--output", type=user_path, required=True, help="CSV file; rows already there are kept")
    parser.add_argument("--device", help="cpu, cuda or mps (default: the best there is)")
    args = parser.parse_args(argv)
    if args.images is not None and args.images < 1:
        raise KitError(f"--images is a number from 1 up, not {args.images}")
    config = load_profile(args.profile)
    names = args.datasets or config.datasets
    if not (names and config.methods):
        raise KitError(f"profile {config.name} has no datasets and methods to score: it is for training")
    datasets = scored_images(config, names)
    for name, images in datasets.items():
        count = min(args.images or len(images), len(images))
        datasets[name] = [images[i * len(images) // count] for i in range(count)]
    settings = {"protocols": config.protocols, "seeds": config.seeds, "device": choose_device(args.device)}
    table = score_images(config, datasets, config.methods, args.output, args.sigmas, **settings)
    print(summarise(table).to_string(index=False, float_format="%.4f"))
