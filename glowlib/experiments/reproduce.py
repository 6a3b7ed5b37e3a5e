"""`make reproduce`: run a profile's notebooks, compare what they made with the reference, write a report."""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import papermill
import torch
from nbclient.exceptions import DeadKernelError
from nbconvert.filters import markdown2html

from ..evaluation.benchmark import KEYS, SCORES, weights_file
from ..networks.convert import list_models
from ..data.datasets import fingerprints
from ..errors import KitError, exit_clearly
from ..training.profiles import list_profiles, load_profile

# Tables of numbers that are compared: file, columns that name a row, columns of numbers.
TABLES = (("summary.csv", ["dataset", "convention", "sigma", "method"], SCORES), ("scores.csv", KEYS, SCORES))
# A tolerance is no smaller than what writing the number rounds away, and for a figure than one digit drawn in it.
LEAST = dict.fromkeys(SCORES, 1e-6) | {"figure": 0.05}
PARTS = ("notebooks", "tables", "figures", "timings")  # folders of a run
# What the spread is measured over: the same run with other threads and other instruction sets.
SSE = {"OMP_NUM_THREADS": "1", "ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SSE |= {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
VARIANTS = {"1 thread": {"OMP_NUM_THREADS": "1"}, "no AVX": SSE}
STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto} td,th{padding:2px 8px;text-align:left} "
    "img{max-width:28em} .anchor-link{display:none}"
)
LIBRARIES = ("torch", "torchvision", "timm", "einops", "numpy", "scikit-image", "PyWavelets", "matplotlib", "pandas")


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


def hash_file(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def input_hashes(profile):
    """{what went in: SHA-256}: every picture and every weights file."""
    hashes = {f"{d}/{name}": h for d in profile.datasets for name, h in fingerprints(d).items()}
    shipped = list_models().shipped
    return hashes | {f"{m} (weights)": hash_file(weights_file(m)) for m in profile.methods if m in shipped}


def compare_inputs(found, reference):
    rows = []
    for name in [*found, *(n for n in reference if n not in found)]:
        verdict = "agrees" if found.get(name) == reference.get(name) else "DIFFERS"
        rows.append({"input": name, "SHA-256": found.get(name, "missing")[:16], "verdict": verdict})
    return pd.DataFrame(rows)


def compare_table(found, reference, keys, scores, tolerances):
    """A row a number: value, reference, difference, tolerance, verdict; rows on one side only do not agree."""
    longs = []
    for table in (found, reference):
        table = table.assign(**{k: table[k].astype(str) for k in keys})
        longs.append(table.melt(keys, scores, var_name="score").set_index([*keys, "score"])["value"])
    rows = pd.concat(longs, axis=1, keys=["value", "reference"], sort=False).reset_index()
    rows["difference"] = rows["value"] - rows["reference"]
    rows["tolerance"] = rows["score"].map(tolerances)
    within = rows["difference"].abs() <= rows["tolerance"]  # false for a missing number
    rows["verdict"] = np.where(within, "agrees", "DIFFERS")
    return rows


def compare_figures(folder, reference, tolerance):
    """A row a figure of the reference: mean absolute difference of its pixels, 0 to 255 scale, and verdict."""
    rows = []
    for path in sorted((reference / "figures").glob("*.png")):
        ours = folder / "figures" / path.name
        row = {"figure": path.stem, "difference": np.nan, "tolerance": tolerance, "verdict": "DIFFERS"}
        if not ours.exists():
            row["verdict"] = "MISSING"
        else:
            a, b = (matplotlib.image.imread(p) for p in (ours, path))
            if a.shape == b.shape:
                row["difference"] = 255 * float(np.abs(a - b).mean())
                row["verdict"] = "agrees" if row["difference"] <= tolerance else "DIFFERS"
        rows.append(row)
    return pd.DataFrame(rows, columns=["figure", "difference", "tolerance", "verdict"])


def read_table(path, keys):
    try:
        return pd.read_csv(path, dtype=dict.fromkeys(keys, str))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read the table {path}: {str(error).splitlines()[0]}") from error


def commit():
    """The commit this runs from, marked where files differ from it; "unknown" outside a repository."""
    run = {"capture_output": True, "text": True}
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip()
    except OSError:
        return "unknown"
    return head + (" with changes" if changed else "") if head else "unknown"


def environment():
    """What is not a result: when, where, with what."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": platform.platform(),
        "processor": f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": device,
    }


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def markdown(frame):
    shown = frame.copy()
    for column in shown.columns:
        if shown[column].dtype == float:
            digits = "{:.2g}" if column in ("difference", "tolerance") else "{:.4f}"
            shown[column] = shown[column].map(lambda v, digits=digits: "missing" if np.isnan(v) else digits.format(v))
    return shown.to_markdown(index=False, disable_numparse=True)


def write_report(profile, folder, reference):
    """Compare folder with reference; write report.md and report.html; return what does not agree, as lines."""
    if not (reference / "tolerances.json").exists():
        raise KitError(f"there is no reference in {reference} to compare with")
    measured = json.loads((reference / "tolerances.json").read_text())
    tolerances = {name: max(3 * measured["spread"].get(name, 0), least) for name, least in LEAST.items()}
    expected = json.loads((reference / "inputs.json").read_text())
    inputs = compare_inputs(input_hashes(profile), expected)
    tables = []
    for name, keys, scores in TABLES:
        ours, theirs = (read_table(place / "tables" / name, keys) for place in (folder, reference))
        ours = ours[ours["method"].isin(profile.methods)]  # another profile's rows may lie in the same file
        tables.append((name, compare_table(ours, theirs, keys, scores, tolerances)))
    figures = compare_figures(folder, reference, tolerances["figure"])

    failures = [f"input {row.input}" for row in inputs.itertuples() if row.verdict != "agrees"]
    for name, rows in tables:
        wrong = rows[rows["verdict"] != "agrees"]
        names = wrong.drop(columns=["value", "reference", "difference", "tolerance", "verdict"])
        failures += [f"{name}: {', '.join(map(str, row))}" for row in names.itertuples(index=False)]
    failures += [f"figure {row.figure}" for row in figures.itertuples() if row.verdict != "agrees"]
    count = len(inputs) + sum(len(rows) for _, rows in tables) + len(figures)

    outputs = sorted(p for part in PARTS for p in (folder / part).rglob("*") if p.is_file())
    hashes = pd.DataFrame({"output": p.relative_to(folder).as_posix(), "SHA-256": hash_file(p)[:16]} for p in outputs)
    found = (platform.python_version(), *map(version, LIBRARIES))
    versions = pd.DataFrame({"library": ("Python", *LIBRARIES), "version": found})
    theirs = f"{os.path.relpath(reference, folder)}/figures"
    pictures = [f"| ![{n}](figures/{n}.png) | ![{n}]({theirs}/{n}.png) |" for n in figures["figure"]]
    verdict = f"**{len(failures)} of {count} checks do not agree.**" if failures else f"**All {count} checks agree.**"
    text = "\n\n".join(
        [
            f"# Reproduction report: profile {profile.name}",
            verdict,
            *(["\n".join(f"- {line}" for line in failures)] if failures else []),
            f"Tolerance: three times the spread measured over {measured['over']}; at least one unit of the last digit "
            "that is written (a figure: as much as one digit drawn in it).",
            "## Numbers",
            "PSNR in dB over RGB; SSIM under both conventions; the noise convention is in the table.",
            markdown(tables[0][1]),
            "## Figures",
            markdown(figures),
            "Mean absolute difference of the pixels, 0 to 255 scale. This run left, the reference right.",
            "\n".join(["| this run | reference |", "|---|---|", *pictures]),
            "## Numbers, picture by picture",
            markdown(tables[1][1]),
            "## Inputs",
            markdown(inputs),
            "## Seeds",
            f"Noise: {', '.join(map(str, profile.seeds))}. A picture's noise depends on (seed, file name, σ) alone.",
            "## Code",
            f"Commit {commit()}.",
            markdown(versions),
            "## Outputs",
            markdown(hashes),
            "## Not results",
            "\n".join(f"- {key}: {value}" for key, value in environment().items()),
        ]
    )
    (folder / "report.md").write_text(text + "\n")
    head = f"<!doctype html><meta charset=utf-8><title>Reproduction report</title><style>{STYLE}</style>"
    (folder / "report.html").write_text(head + markdown2html(text))
    return failures, count


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
        command = ["-m", "glowlib.benchmark", "--profile", name, "--pictures", str(sample), "--output", str(other)]
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
    parser = argparse.ArgumentParser(prog="python -m glowlib.reproduction", description=__doc__.splitlines()[0])
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


if __name__ == "__main__":
    main()
