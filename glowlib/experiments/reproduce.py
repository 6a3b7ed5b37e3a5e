"""`make reproduce`: run a profile's notebooks, compare what they made with the reference, write a report."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import papermill
from nbclient.exceptions import DeadKernelError

from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import SCORES
from ..evaluation.tables import read_table
from ..training.profiles import list_profiles, load_profile
from .report import LEAST, PARTS, TABLES, compare_table, input_hashes, processor, write_report

# What the spread is measured over: the same run with other threads and other instruction sets.
SSE = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SSE |= {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
VARIANTS = {"1 thread": {"OMP_NUM_THREADS": "1"}, "no AVX": SSE}


def run_notebooks(profile, folder):
    """Execute the profile's notebooks with papermill into folder/notebooks; the sources stay as they are."""
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for name in profile.notebooks:
        source, target = Path("notebooks") / f"{name}.ipynb", folder / "notebooks" / f"{name}.ipynb"
        if not source.exists():
            raise KitError(f"there is no {source}: run this in the top folder of a clone")
        declared = papermill.inspect_notebook(str(source))
        given = {"profile": profile.name, "run_folder": str(folder)}
        print(f"running {source}", flush=True)
        try:
            papermill.execute_notebook(
                str(source),
                str(target),
                parameters={key: value for key, value in given.items() if key in declared},
                kernel_name="python3",
                progress_bar=sys.stderr.isatty(),
            )
        except papermill.exceptions.PapermillExecutionError as error:
            raise KitError(f"{source} failed with {error.ename}: {error.evalue}; see {target}") from error
        except DeadKernelError as error:
            raise KitError(
                f"the kernel of {source} died, for want of memory perhaps: run this again to go on"
            ) from error


def write_reference(name, sample):
    """Make results/reference/<profile> from the run that is there, and measure the spread of its scores.

    The spread is the largest difference to the same scores computed in other ways (VARIANTS) on `sample` pictures
    of each dataset. Figures are drawn from those scores and pictures, and have a fixed tolerance.
    """
    profile = load_profile(name)
    folder, reference = Path("results/runs") / profile.name, Path("results/reference") / profile.name
    table, keys, scores = TABLES[1]
    ours = read_table(folder / "tables" / table, keys)
    spread = dict.fromkeys(SCORES, 0.0)
    for variant, settings in VARIANTS.items():
        other = folder.with_name(f"{profile.name}-{variant.replace(' ', '-')}.csv")
        command = ["-m", "glowlib", "benchmark", "--profile", name, "--pictures", str(sample), "--output", str(other)]
        subprocess.run([sys.executable, *command], env=os.environ | settings, check=True)
        theirs = read_table(other, keys)
        rows = compare_table(ours.merge(theirs[keys]), theirs, keys, scores, LEAST)
        for score, part in rows.groupby("score"):
            spread[score] = float(np.maximum(spread[score], part["difference"].abs().max(skipna=False)))
    if not all(map(np.isfinite, spread.values())):
        raise KitError(f"{folder} lacks scores that the spread is measured on: finish its run first")
    for part in ("tables", "figures"):
        if not (folder / part).is_dir():
            raise KitError(f"there is no {folder / part}: type make reproduce PROFILE={profile.name} first")
    shutil.rmtree(reference, ignore_errors=True)
    shutil.copytree(folder / "tables", reference / "tables")
    shutil.copytree(folder / "figures", reference / "figures", ignore=shutil.ignore_patterns("*.pdf"))
    over = f"{', '.join(VARIANTS)}, on {sample} pictures of each dataset; {processor()}"
    (reference / "tolerances.json").write_text(json.dumps({"over": over, "spread": spread}, indent=1) + "\n")
    (reference / "inputs.json").write_text(json.dumps(input_hashes(profile), indent=1) + "\n")


def reproduce(name, verify=False):
    """Run a profile (or, with `verify`, look at an existing run) and judge it; return the list of disagreements."""
    profile = load_profile(name)
    if not profile.notebooks:
        raise KitError(f"profile {profile.name} has no notebooks to run: it is for training")
    folder, reference = Path("results/runs") / profile.name, Path("results/reference") / profile.name
    if verify and not folder.exists():
        raise KitError(f"there is no run in {folder}: type make reproduce PROFILE={profile.name} first")
    if not verify:
        if (folder / "report.md").exists():  # the last run was finished; an unfinished one is continued
            for part in (*PARTS, "notebook_training"):
                shutil.rmtree(folder / part, ignore_errors=True)
            (folder / "report.md").unlink()
        run_notebooks(profile, folder)
    failures, count = write_report(profile, folder, reference)
    print(f"{count - len(failures)} of {count} checks agree; see {folder / 'report.html'}")
    return failures


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(list_profiles())}")
    parser.add_argument("--verify", action="store_true", help="judge the run that is there, compute nothing")
    parser.add_argument("--write-reference", action="store_true", help="make the run that is there the reference")
    parser.add_argument("--sample", type=int, default=5, help="pictures of a dataset that its spread is measured on")
    args = parser.parse_args(argv)
    if args.write_reference:
        write_reference(args.profile, args.sample)
    failures = reproduce(args.profile, args.verify or args.write_reference)
    for line in failures:
        print(f"DIFFERS: {line}", file=sys.stderr)
    sys.exit(1 if failures else 0)
