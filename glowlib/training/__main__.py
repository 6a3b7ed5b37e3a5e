"""Training from a profile, resumable anywhere: `python -m glowlib.training --profile small --model sglownet`."""

import argparse
from dataclasses import fields
from typing import get_args, get_origin

from ..errors import exit_clearly
from .config import TrainingConfig
from .estimate import dry_run
from .loop import train
from .profiles import list_profiles


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `TrainingConfig`, which replaces the profile's value."""
    for field in fields(TrainingConfig):
        if get_origin(field.type) is tuple:
            kind = get_args(field.type)[0]
            parser.add_argument(f"--{field.name}", type=kind, nargs="*", help=argparse.SUPPRESS)
        else:
            parser.add_argument(f"--{field.name}", type=field.type, help=argparse.SUPPRESS)


@exit_clearly
def main(argv: list[str] | None = None) -> None:
    """The command line of `train` and `dry_run`."""
    parser = argparse.ArgumentParser(
        prog="python -m glowlib.training",
        description=__doc__.splitlines()[0],
        epilog="Any value of the recipe can be given, and replaces the profile's: "
        f"{', '.join(f'--{f.name}' for f in fields(TrainingConfig))}.",
    )
    parser.add_argument("--profile", default="small", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--model", required=True, help="a model the profile names, or its network")
    parser.add_argument("--out", help="the run's folder; an unfinished run there is continued")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    parser.add_argument("--minutes", type=float, help="stop after that many minutes; run again to continue")
    parser.add_argument("--until", type=int, help="stop at that step; run again to continue")
    parser.add_argument("--from", dest="start", help="start from the weights of a shipped model or a file")
    parser.add_argument(
        "--micro_batch",
        type=int,
        help="gradient accumulation: crops per forward pass on a device. The batch size stays the same, and for sunet "
        "so does the result; the other networks have BatchNorm, whose statistics are then those of each micro-batch",
    )
    parser.add_argument(
        "--recompute", dest="recomputed", action="store_true", help="activation checkpointing: less memory, more time"
    )
    parser.add_argument("--compile", dest="compiled", nargs="?", const="default", help="torch.compile, and its mode")
    parser.add_argument("--dry-run", action="store_true", help="print the plan with what it takes, and train nothing")
    add_recipe_options(parser)
    args = vars(parser.parse_args(argv))
    if args["sigma"] and len(args["sigma"]) == 1:
        args["sigma"] *= 2
    profile, model = args.pop("profile"), args.pop("model")
    if args.pop("dry_run"):
        print(dry_run(profile, model, **args))
    else:
        print("trained:", train(profile, model, **args))


if __name__ == "__main__":
    main()
