"""`make reproduce`: run a profile's notebooks, compare what they made with the reference, write a report."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import papermill
from nbclient.exceptions import DeadKernelError

from ..errors import KitError, exit_clearly
from ..evaluation.benchmark import SCORES
from ..files import atomic_write, locked, sha256, user_path
from ..training.profiles import Profile, list_profiles, load_profile
from .judge import OPTIONAL, PASSED, TABLES, check_notebook, counted, files_of, input_hashes, judge, numbers
from .report import REPORT, processor, write_report

PARTS = ("notebooks", "tables", "figures", "timings", "notebook_training")  # folders of a run
# What the spread is measured over: the same run with other threads and other instruction sets.
SSE = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SSE |= {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
VARIANTS = {"1 thread": {"OMP_NUM_THREADS": "1"}, "no AVX": SSE}


def folders(profile: Profile) -> tuple[Path, Path]:
    """(folder of the run, folder of the reference); KitError for a profile whose name is not a plain word."""
    if not re.fullmatch(r"\w[\w.-]*", profile.name):
        raise KitError(f"a profile's name has letters, digits, '.', '-' and '_' only, not {profile.name!r}")
    return Path("results/runs") / profile.name, Path("results/reference") / profile.name


def run_notebooks(profile: Profile, name: str, folder: Path) -> None:
    """Execute the profile's notebooks with papermill into folder/notebooks; the sources stay as they are.

    Args:
        profile: names the notebooks.
        name: of the profile, or its file; the notebooks' parameter `profile`.
        folder: of the run; the notebooks' parameter `run_folder`.
    """
    (folder / "notebooks").mkdir(parents=True, exist_ok=True)
    for stem in profile.notebooks:
        source, target = Path("notebooks") / f"{stem}.ipynb", folder / "notebooks" / f"{stem}.ipynb"
        if not source.exists():
            raise KitError(f"there is no {source}: run this in the top folder of a clone")
        declared = papermill.inspect_notebook(str(source))
        given = {"profile": name, "run_folder": str(folder)}
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
            raise KitError(f"the kernel of {source} died, perhaps out of memory: run this again to continue") from error


def is_complete(profile: Profile, folder: Path) -> bool:
    """Whether all of the profile's notebooks were run to their end in this folder."""
    notebooks = [check_notebook(name, folder / "notebooks" / f"{name}.ipynb") for name in profile.notebooks]
    return all(check.verdict == PASSED for check in notebooks)


def remove_results(folder: Path) -> None:
    """Remove what an earlier, finished run left; a training in the folder stays."""
    for part in PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)


def measured_spread(name: str, folder: Path, sample: int) -> dict:
    """{score: largest difference to the same scores computed in other ways (VARIANTS)}.

    Args:
        name: of the profile, or its file.
        folder: of its run.
        sample: images of each dataset that are computed again.
    """
    spec = TABLES["scores.csv"]
    ours = numbers(folder / "tables" / "scores.csv", spec)
    spread = dict.fromkeys(SCORES, 0.0)
    for variant, settings in VARIANTS.items():
        other = folder.with_name(f"{folder.name}-{variant.replace(' ', '-')}.csv")
        command = ["-m", "glowlib", "benchmark", "--profile", name, "--images", str(sample), "--output", str(other)]
        done = subprocess.run([sys.executable, *command, "--device", "cpu"], env=os.environ | settings)
        if done.returncode:
            raise KitError(f"the scores with {variant} could not be computed: see the lines above")
        for key, value in numbers(other, spec).items():
            if key not in ours:
                raise KitError(f"{folder} lacks scores that the spread is measured on: finish its run first")
            spread[key[-1]] = max(spread[key[-1]], abs(value - ours[key]))
    return spread


def write_reference(name: str, sample: int) -> None:
    """Make results/reference/<profile> of the run that is there, and measure the spread of its scores."""
    profile = load_profile(name)
    folder, reference = folders(profile)
    for part in ("tables", "figures"):
        if not (folder / part).is_dir():
            raise KitError(f"there is no {folder / part}: type make reproduce PROFILE={profile.name} first")
    spread = measured_spread(name, folder, sample)
    over = f"{', '.join(VARIANTS)}, on {sample} images of each dataset; {processor()}"
    copy_as_reference(profile, folder, reference, {"over": over, "spread": spread})


def copy_as_reference(profile: Profile, folder: Path, reference: Path, measured: dict) -> None:
    """Replace a reference by a run's tables and figures; record its inputs, tolerances, files and number of checks."""
    shutil.rmtree(reference, ignore_errors=True)
    unwanted = shutil.ignore_patterns(".*", "*.pdf", *OPTIONAL)
    for part in ("tables", "figures"):
        shutil.copytree(folder / part, reference / part, ignore=unwanted)
    write_json(reference / "tolerances.json", measured)
    write_json(reference / "inputs.json", input_hashes(profile))
    files = {path.relative_to(reference).as_posix(): sha256(path) for path in files_of(reference)}
    write_json(reference / "manifest.json", {"files": files})
    *checks, _ = judge(profile, folder, reference)  # the last check is of their number itself
    write_json(reference / "manifest.json", {"checks": counted(checks), "files": files})


def write_json(path: Path, content) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def reproduce(name: str, *, verify: bool = False, sample: int | None = None) -> list[str]:
    """Run a profile and judge it.

    Args:
        name: of the profile, or its file.
        verify: judge the run that is there, compute nothing.
        sample: if given, make this run the reference, after running what is missing of it; see `write_reference`.

    Returns:
        What does not agree with the reference, a line each.

    Raises:
        KitError: nothing to run or to compare with, another process in the same folder, a notebook that fails.
    """
    profile = load_profile(name)
    if name != profile.name:
        name = str(user_path(name).resolve())  # a notebook's kernel may work in another folder
    if not profile.notebooks:
        raise KitError(f"profile {profile.name} has no notebooks to run: it is for training or scoring")
    folder, reference = folders(profile)
    if verify and not folder.exists():
        raise KitError(f"there is no run in {folder}: type make reproduce PROFILE={profile.name} first")
    if sample is None and not reference.is_dir():
        raise KitError(f"there is no reference in {reference}: make one with --write-reference")
    with locked(folder):
        complete = is_complete(profile, folder)
        if complete and (folder / REPORT).exists() and not verify and sample is None:
            remove_results(folder)  # the last run was finished; an unfinished one is continued
            complete = False
        (folder / REPORT).unlink(missing_ok=True)  # an old verdict is not one of this run
        if not verify and not (complete and sample is not None):
            run_notebooks(profile, name, folder)
        if sample is not None:
            write_reference(name, sample)
        failures, count = write_report(profile, folder, reference)
    print(f"{count - len(failures)} of {count} checks agree; see {folder / REPORT}")
    return failures


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="quick", help=f"one of {', '.join(list_profiles())}")
    parser.add_argument("--verify", action="store_true", help="judge the run that is there, compute nothing")
    parser.add_argument("--write-reference", action="store_true", help="make the run the reference")
    parser.add_argument("--sample", type=int, default=5, help="images of a dataset that its spread is measured on")
    args = parser.parse_args(argv)
    failures = reproduce(args.profile, verify=args.verify, sample=args.sample if args.write_reference else None)
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(1 if failures else 0)
