"""The report of a run: the verdict first, then the claims, the tables, the figures, and every check folded below."""

import math
import os
import platform
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import jinja2
import pandas as pd
import torch

from ..evaluation.tables import CAPTION, best, paper_layout
from ..files import CLONE, atomic_write, sha256
from ..training.profiles import Profile
from .cost import method_facts
from .judge import PASSED, Check, files_of, judge, optional_parts, read_json

TEMPLATE = Path(__file__).with_name("report_template.html")
REPORT = "report.html"
LIBRARIES = ("torch", "torchvision", "timm", "einops", "numpy", "scipy", "scikit-image", "PyWavelets", "matplotlib")


class Table(NamedTuple):
    """What the template shows as a table: cells are (text, whether it is bold)."""

    title: str
    header: list
    rows: list


def plain_table(title: str, frame: pd.DataFrame) -> Table:
    """A frame, its index first, with thousands separated and nothing for NaN."""

    def text(value):
        if isinstance(value, float):
            return "" if math.isnan(value) else f"{value:,.0f}"
        return f"{value:,}" if isinstance(value, int) else str(value)

    rows = [[(str(name), False), *((text(value), False) for value in row)] for name, *row in frame.itertuples()]
    return Table(title, ["", *frame.columns], rows)


def paper_tables(folder: Path) -> list[Table]:
    """One table a protocol and dataset, from the run's summary.csv; the best value of a column is bold."""
    summary = pd.read_csv(folder / "tables" / "summary.csv")
    tables = []
    for protocol in summary["protocol"].unique():
        shown = paper_layout(summary, protocol)
        for dataset in shown.columns.unique(0):
            part = shown[dataset]
            bold = best(part)
            rows = [[(name, False), *zip(part.loc[name], bold.loc[name], strict=True)] for name in part.index]
            tables.append(Table(f"{dataset}, {protocol} noise", ["", *map(", ".join, part.columns)], rows))
    return tables


def paper_map(page: Path) -> list[Table]:
    """The tables of docs/paper.md as text: where each part of the paper is computed, and its status."""
    tables, title = [], ""
    for line in page.read_text(encoding="utf-8").splitlines() if page.exists() else ():
        if line.startswith("#"):
            title = line.strip("# ")
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)|`", r"\1", line)  # without links and code marks
        cells = [cell.strip() for cell in plain.strip("|").split("|")]
        if line.startswith("| in the paper"):
            tables.append(Table(title, cells, []))
        elif line.startswith("| ") and tables and tables[-1].title == title:
            tables[-1].rows.append([(cell, False) for cell in cells])
    return tables


def or_nothing(make: Callable, *arguments) -> list:
    """What make(*arguments) returns; an empty list where files are damaged, which the checks have reported."""
    try:
        return make(*arguments)
    except Exception:
        return []


def commit() -> str:
    """The commit this runs from, marked where files differ from it; "unknown" outside a repository."""
    run = {"capture_output": True, "text": True, "cwd": CLONE}
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], **run).stdout.strip()
    except OSError:
        return "unknown"
    return head + (" with changes" if changed else "") if head else "unknown"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def environment() -> dict:
    """What is not a result: when, where, with what."""
    return {
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "system": platform.platform(),
        "processor": f"{processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "Python": platform.python_version(),
        **{library: version(library) for library in LIBRARIES},
    }


def line(check: Check) -> str:
    """A check that failed, in one line."""
    reason = f" ({check.found})" if check.verdict == "DAMAGED" else ""
    return f"{check.part}: {check.name}: {check.verdict}{reason}"


def figures(checks: list[Check], folder: Path, reference: Path) -> list[dict]:
    """Of each judged figure its name, its verdict, and both files' addresses as seen from the report."""
    theirs = os.path.relpath(reference, folder).replace(os.sep, "/")
    found = []
    for check in checks:
        if check.part == "figures":
            file = quote(f"figures/{check.name}.png")
            found.append({"name": check.name, "verdict": check.verdict, "run": file, "reference": f"{theirs}/{file}"})
    return found


def write_report(profile: Profile, folder: Path, reference: Path) -> tuple[list[str], int]:
    """Compare a run with the reference and write report.html into its folder.

    Args:
        profile: what was run.
        folder: of the run.
        reference: folder of the reference.

    Returns:
        What does not agree, a line each, and the number of checks.
    """
    checks = judge(profile, folder, reference)
    failures = [line(check) for check in checks if check.verdict != PASSED]
    spread = or_nothing(read_json, reference / "tolerances.json")
    parts = {}
    for check in checks:
        parts.setdefault(check.part, []).append(check)
    facts = or_nothing(lambda: [plain_table("What the methods are", method_facts(profile.methods))])
    outputs = [(path.relative_to(folder).as_posix(), sha256(path)) for path in files_of(folder) if path.name != REPORT]
    page = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        profile=profile,
        checks=checks,
        failures=failures,
        optional=optional_parts(profile, folder, reference),
        claims=parts.pop("claims", []),
        paper=paper_map(CLONE / "docs" / "paper.md"),
        tables=or_nothing(paper_tables, folder),
        caption=CAPTION,
        facts=facts,
        figures=figures(checks, folder, reference),
        parts=parts,
        over=spread.get("over", "nothing") if isinstance(spread, dict) else "nothing",
        outputs=outputs,
        environment=environment(),
        passed=PASSED,
    )
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return failures, len(checks)
