"""Train a profile's models on a machine that is yours for minutes at a time: `python -m glowlib sweep --help`.

Each call is one piece: it goes on where the last one stopped, ends in time, and leaves weights and logs in one
folder. All models have the same recipe, so that they can be compared once all have made all their steps.
"""

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from ..errors import KitError, exit_clearly
from ..files import DATA_VARIABLE
from .profiles import list_profiles, load_profile, resolve_model


def steps_done(folder):
    """Steps that the log of a run tells of."""
    try:
        rows = list(csv.DictReader((folder / "log.csv").open()))
    except OSError:
        return 0
    return int(rows[-1]["step"]) if rows else 0


def shared_cores(at_once):
    """Environment for trainings side by side: they share the cores instead of fighting for them."""
    if at_once == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // at_once))}


def run_piece(jobs, minutes, at_once, variables):
    """Run training commands, {run folder: arguments}, `at_once` at a time, all of them in `minutes`.

    variables: the environment, where it differs from this process's.
    Returns what went wrong, a line a folder; whatever ends this early ends the trainings, too.
    """
    variables = shared_cores(at_once) | variables
    deadline, waiting, running, failed = time.monotonic() + 60 * minutes, dict(jobs), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                turns = -(-len(waiting) // at_once)  # those that wait share what is left
                left = (deadline - time.monotonic()) / 60 / turns
                folder, arguments = next(iter(waiting.items()))
                del waiting[folder]
                folder.mkdir(parents=True, exist_ok=True)
                command = [sys.executable, "-m", "glowlib.training", *arguments, "--minutes", f"{max(left, 0):.3f}"]
                with (folder / "output.txt").open("a") as output:
                    settings = {"stdout": output, "stderr": subprocess.STDOUT, "env": os.environ | variables}
                    running[folder] = subprocess.Popen(command, **settings)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    del running[folder]
                    if process.returncode:
                        failed.append(f"{folder.name}: {reason(folder / 'output.txt', process.returncode)}")
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    return failed


def reason(output, status):
    """Why a training ended: the last line of its output where that speaks to users, else its exit status."""
    last = output.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
    return last.removeprefix("error: ") if last.startswith("error: ") else f"exit status {status}, see {output}"


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m glowlib sweep",
        description=__doc__.splitlines()[0].split(":")[0] + ".",
        epilog="What is not listed here goes to python -m glowlib.training as it is, such as --steps or --compile.",
    )
    parser.add_argument("--pictures", type=Path, help="folder of the training pictures (default: the profile's set)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the runs; those that are there are continued"
    )
    parser.add_argument("--results", type=Path, help="folder for weights and logs, a file each (default: OUT/results)")
    parser.add_argument("--profile", default="small", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--models", nargs="+", help="names of the profile's models (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="length of this piece (default: 9)")
    parser.add_argument(
        "--at_once", type=int, default=1, help="trainings side by side: one on a CPU, all on a large GPU"
    )
    args, more = parser.parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a scheduler's end ends the trainings
    profile = load_profile(args.profile)
    names = [resolve_model(profile, name) for name in args.models or profile.models]
    variables = {}
    if args.pictures is not None:
        if not args.pictures.is_dir():
            raise KitError(f"there is no folder {args.pictures}: give --pictures the folder of the training pictures")
        variables = {DATA_VARIABLE: str(args.pictures.resolve().parent)}
        more = [*more, "--data", args.pictures.resolve().name]
    jobs = {args.out / n: ["--profile", args.profile, "--model", n, "--out", str(args.out / n), *more] for n in names}
    failed = run_piece(jobs, args.minutes, max(1, args.at_once), variables)
    results = args.results or args.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    for folder in jobs:
        for made in ("model.safetensors", "log.csv"):
            if (folder / made).exists():
                shutil.copy(folder / made, results / f"{folder.name}{Path(made).suffix}")
        print(f"{folder.name}: {steps_done(folder)} steps")
    print(f"weights and logs in {results}")
    if failed:
        raise KitError("; ".join(failed))
