"""Score a profile's methods on its test sets: one tidy table, a row an image; and its summary."""

import argparse

from ..data.datasets import load_dataset
from ..device import choose_device
from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import run_benchmark
from ..evaluation.tables import summarise
from ..files import user_path
from ..training.profiles import list_profiles, load_profile


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
    names, sigmas = args.datasets or config.datasets, args.sigmas or config.sigmas
    if not (names and config.methods):
        raise KitError(f"profile {config.name} has no datasets and methods to score: it is for training")
    datasets = {name: load_dataset(name) for name in names}
    for name, images in datasets.items():
        count = min(args.images or len(images), len(images))
        datasets[name] = [images[i * len(images) // count] for i in range(count)]
    settings = {"protocols": config.protocols, "seeds": config.seeds, "device": choose_device(args.device)}
    table = run_benchmark(datasets, config.methods, sigmas, args.output, **settings)
    print(summarise(table).to_string(index=False, float_format="%.4f"))
