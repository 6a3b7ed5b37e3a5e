"""Train a profile's models in time slices, for machines that are free for minutes: `python -m glowlib sweep --help`.

Each call continues where the last one stopped, ends in time, and collects weights and logs in one folder. All models
have the same recipe, so that they can be compared once all have made all their steps.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from ..errors import KitError, exit_clearly
from ..files import DATA_VARIABLE, user_path
from .profiles import list_profiles, load_profile, resolve_model
from .run_folder import clear_write_errors, read_log


def steps_done(folder: Path) -> int:
    """Number of steps in the log of a run; 0 for a run that was not started.

    Raises:
        KitError: for a damaged log.
    """
    rows = read_log(folder / "log.csv")
    return int(rows[-1]["step"]) if rows else 0


def shared_cores(at_once: int) -> dict[str, str]:
    """Environment variables with which trainings side by side share the processor's cores."""
    if at_once == 1:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // at_once))}


def run_piece(jobs: dict[Path, list[str]], minutes: float, at_once: int, variables: dict[str, str]) -> list[str]:
    """Run trainings for one time slice. If it ends early, such as by Ctrl+C, so do the trainings.

    Args:
        jobs: {run folder: arguments of `python -m glowlib.training`}.
        minutes: length of the slice; the trainings that wait share what is left.
        at_once: how many run side by side.
        variables: environment variables that differ from this process's.
    Returns:
        The failures, a line for each folder; they do not end the others.
    Raises:
        KitError: for a folder that cannot be written.
    """
    variables = shared_cores(at_once) | variables
    deadline, waiting, running, failed = time.monotonic() + 60 * minutes, dict(jobs), {}, []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                turns = -(-len(waiting) // at_once)
                left = (deadline - time.monotonic()) / 60 / turns
                folder, arguments = next(iter(waiting.items()))
                del waiting[folder]
                command = [sys.executable, "-m", "glowlib.training", *arguments, "--minutes", f"{max(left, 0):.3f}"]
                with clear_write_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    output = (folder / "output.txt").open("a")
                with output:
                    settings = {"stdout": output, "stderr": subprocess.STDOUT, "env": os.environ | variables}
                    running[folder] = subprocess.Popen(command, **settings)
            for folder, process in list(running.items()):
                if process.poll() is not None:
                    del running[folder]
                    if process.returncode:
                        failed.append(f"{folder.name}: {failure_reason(folder / 'output.txt', process.returncode)}")
            time.sleep(0.2)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    return failed


def failure_reason(output: Path, status: int) -> str:
    """Why a training failed: the error line that ends its output, or else its exit status."""
    last = output.read_text(errors="replace").strip().rsplit("\n", 1)[-1]
    return last.removeprefix("error: ") if last.startswith("error: ") else f"exit status {status}, see {output}"


def collect(folders: list[Path], results: Path) -> list[str]:
    """Copy each run's weights and log into one folder, and print the steps it made.

    Returns:
        The runs whose log is damaged, a line each.
    """
    failed = []
    with clear_write_errors(results):
        results.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            for made in ("model.safetensors", "log.csv"):
                if (folder / made).exists():
                    shutil.copy(folder / made, results / f"{folder.name}{Path(made).suffix}")
            try:
                print(f"{folder.name}: {steps_done(folder)} steps")
            except KitError as error:
                failed.append(str(error))
    print(f"weights and logs in {results}")
    return failed


@exit_clearly
def main(argv: list[str] | None = None) -> None:
    """The command line of a sweep."""
    parser = argparse.ArgumentParser(
        prog="python -m glowlib sweep",
        description=__doc__.splitlines()[0].split(":")[0] + ".",
        epilog="Other options are passed to python -m glowlib.training, such as --steps or --compile.",
    )
    parser.add_argument("--pictures", type=user_path, help="folder of the training images (default: the profile's set)")
    parser.add_argument("--out", type=user_path, required=True, help="folder of the runs; those it holds are continued")
    parser.add_argument(
        "--results", type=user_path, help="folder for weights and logs, a file each (default: OUT/results)"
    )
    parser.add_argument("--profile", default="small", help=f"one of {', '.join(list_profiles())}, or a YAML file")
    parser.add_argument("--models", nargs="+", help="names of the profile's models (default: all)")
    parser.add_argument("--minutes", type=float, default=9.0, help="length of the time slice (default: 9)")
    parser.add_argument("--at_once", type=int, default=1, help="trainings side by side: one on a CPU, all on a GPU")
    args, more = parser.parse_known_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # a scheduler's end ends the trainings
    if args.at_once < 1:
        raise KitError(f"--at_once is a number from 1 up, not {args.at_once}")
    if not 0 <= args.minutes < float("inf"):
        raise KitError(f"--minutes is a number from 0 up, not {args.minutes}")
    profile = load_profile(args.profile)
    names = list(dict.fromkeys(resolve_model(profile, name) for name in args.models or profile.models))
    variables = {}
    if args.pictures is not None:
        pictures = args.pictures.resolve()
        if not pictures.is_dir():
            raise KitError(f"there is no folder {pictures}: give --pictures the folder of the training images")
        variables = {DATA_VARIABLE: str(pictures.parent)}
        more = [*more, "--data", pictures.name]
    out = args.out
    jobs = {out / n: ["--profile", args.profile, "--model", n, "--out", str(out / n), *more] for n in names}
    failed = run_piece(jobs, args.minutes, args.at_once, variables)
    failed += collect(list(jobs), args.results or out / "results")
    if failed:
        raise KitError("; ".join(failed))
