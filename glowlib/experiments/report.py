"""Comparison of a run with the reference, number by number, and the report that says how it went."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import torch
from nbconvert.filters import markdown2html

from ..data.datasets import fingerprints
from ..errors import KitError
from ..evaluation.benchmark import KEYS, SCORES, weights_file
from ..evaluation.tables import read_table
from ..files import sha256
from ..networks.pretrained import list_models

# Tables of numbers that are compared: file, columns that name a row, columns of numbers.
TABLES = (("summary.csv", ["dataset", "protocol", "sigma", "method"], SCORES), ("scores.csv", KEYS, SCORES))
# A tolerance is no smaller than what writing the number rounds away, and for a figure than one digit drawn in it.
LEAST = dict.fromkeys(SCORES, 1e-6) | {"figure": 0.05}
PARTS = ("notebooks", "tables", "figures", "timings")  # folders of a run
STYLE = (
    "body{font:15px sans-serif;max-width:60em;margin:2em auto} td,th{padding:2px 8px;text-align:left} "
    "img{max-width:28em} .anchor-link{display:none}"
)
LIBRARIES = ("torch", "torchvision", "timm", "einops", "numpy", "scikit-image", "PyWavelets", "matplotlib", "pandas")


def input_hashes(profile):
    """{what went in: SHA-256}: every picture and every weights file."""
    hashes = {f"{d}/{name}": h for d in profile.datasets for name, h in fingerprints(d).items()}
    shipped = list_models().shipped
    return hashes | {f"{m} (weights)": sha256(weights_file(m)) for m in profile.methods if m in shipped}


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
    hashes = pd.DataFrame({"output": p.relative_to(folder).as_posix(), "SHA-256": sha256(p)[:16]} for p in outputs)
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
            "PSNR in dB over RGB; SSIM under both protocols; the noise protocol is in the table.",
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
