"""Does a run agree with the reference? Every comparison is a `Check`; what is missing or damaged never agrees.

A reference is results/reference/<profile>: tables/, figures/, inputs.json (what went in), tolerances.json (the measured
spread of the scores) and manifest.json (every file's hash, and how many checks there are). All of it is written by
`python -m glowlib reproduce --write-reference`.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib.image
import numpy as np

from ..data.datasets import fingerprints
from ..errors import KitError
from ..evaluation.benchmark import KEYS, SCORES, fingerprint, weights_file
from ..evaluation.statistics import answer, paired_differences
from ..evaluation.tables import PEER_SCORES, read_table
from ..files import CLONE, sha256
from ..training.profiles import Profile, load_profile

CLAIMS = CLONE / "results" / "claims.json"
# A tolerance is no smaller than what writing the number rounds away, and for a figure than one digit drawn in it.
LEAST = dict.fromkeys(SCORES, 1e-6) | {"figure": 0.05}
OPTIONAL = {"original_scores.csv": "scores of the published checkpoint"}
PASSED = "agrees"


class Check(NamedTuple):
    """One comparison. verdict: "agrees", "DIFFERS", "MISSING" or "DAMAGED"."""

    part: str
    name: str
    verdict: str
    found: object = ""
    expected: object = ""
    difference: float = math.nan
    tolerance: float = math.nan


class Spec(NamedTuple):
    """How a table is compared: columns that name a row, and {column of numbers: name of its tolerance}."""

    keys: list
    numbers: dict


SETTING = ["dataset", "protocol", "sigma"]
TABLES = {
    "summary.csv": Spec([*SETTING, "method"], {name: name for name in SCORES}),
    "scores.csv": Spec(KEYS, {name: name for name in SCORES}),
    "paired_differences.csv": Spec(
        [*SETTING, "a", "b"], dict.fromkeys(("difference", "low", "high"), "difference") | {"images": "exact"}
    ),
    "cost.csv": Spec(  # its other columns, seconds and memory, are this machine's
        ["method"], {"parameters": "exact", "gflops": "exact", "PSNR at the strongest noise, dB": "printed"}
    ),
}


def tolerances(spread: dict) -> dict:
    """{name: tolerance}: three times the measured spread of each score, and what follows for numbers made of them."""
    found = {name: max(3 * spread.get(name, 0), least) for name, least in LEAST.items()}
    return found | {"difference": 2 * found["psnr"], "printed": 0.01 + found["psnr"], "exact": 1e-9}


def input_hashes(profile: Profile) -> dict:
    """{input: SHA-256} of every image and every weights file that a profile uses."""
    hashes = {f"{d}/{name}": h for d in profile.datasets for name, h in fingerprints(d).items()}
    weights = {method: weights_file(method) for method in profile.methods}
    return hashes | {f"{method} (weights)": sha256(path) for method, path in weights.items() if path}


def guarded(part: str, name: str, check: Callable, *arguments) -> list[Check]:
    """The checks that `check(*arguments)` returns; a single one, "DAMAGED", where it raises anything."""
    try:
        return check(*arguments)
    except Exception as error:  # a damaged file raises whatever its bytes lead a reader to
        reason = (str(error).splitlines() or [""])[0]
        return [Check(part, name, "DAMAGED", f"{type(error).__name__}: {reason}")]


def read_json(path: Path) -> dict:
    """The content of a JSON file, or a KitError, one line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KitError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def equal(part: str, name: str, found, expected) -> Check:
    """A check of two values that have to be the same; None is a missing one."""
    verdict = "MISSING" if found is None or expected is None else PASSED if found == expected else "DIFFERS"
    return Check(part, name, verdict, "" if found is None else found, "" if expected is None else expected)


def check_files(reference: Path) -> list[Check]:
    """The reference's files are those that its manifest lists, byte for byte."""
    expected = read_json(reference / "manifest.json")["files"]
    paths = {path.relative_to(reference).as_posix(): path for path in files_of(reference)}
    found = {name: sha256(path) for name, path in paths.items()}
    return [equal("reference", name, found.get(name), expected.get(name)) for name in {**expected, **found}]


def files_of(folder: Path) -> list[Path]:
    """Files below a folder, without hidden ones and a manifest."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return [path for path in found if path.name != "manifest.json"]


def check_inputs(found: dict, reference: Path) -> list[Check]:
    """Images and weights have the hashes of the reference's. found: from `input_hashes`."""
    expected = read_json(reference / "inputs.json")
    return [equal("inputs", name, found.get(name), expected.get(name)) for name in {**expected, **found}]


def check_code(profile: Profile, folder: Path) -> list[Check]:
    """Each method's rows in the run come from the code, the libraries and the weights that are here."""
    rows = read_table(folder / "tables" / "scores.csv", KEYS).groupby("method")["fingerprint"].unique()
    checks = []
    for method in profile.methods:
        found = " ".join(rows[method]) if method in rows else None
        checks.append(equal("code, libraries and weights", method, found, fingerprint(method)))
    return checks


def check_scored_images(folder: Path, reference: Path) -> list[Check]:
    """The images that the run scored have the pixels of those that the reference scored."""
    hashes = []
    for place in (folder, reference):
        rows = read_table(place / "tables" / "scores.csv", KEYS)
        hashes.append(rows.groupby(["dataset", "image"])["image_hash"].unique().map(" ".join).to_dict())
    found, expected = hashes
    names = {**expected, **found}
    return [equal("images as scored", "/".join(name), found.get(name), expected.get(name)) for name in names]


def check_notebooks(profile: Profile, folder: Path) -> list[Check]:
    """Each of the profile's notebooks was run to its end."""
    return [check_notebook(name, folder / "notebooks" / f"{name}.ipynb") for name in profile.notebooks]


def check_notebook(name: str, path: Path) -> Check:
    """Every code cell of a notebook was completed (papermill writes each cell's status)."""
    if not path.exists():
        return Check("notebooks", name, "MISSING", expected="completed")
    try:
        cells = [cell for cell in read_json(path)["cells"] if cell["cell_type"] == "code"]
        done = sum(cell["metadata"]["papermill"]["status"] == "completed" for cell in cells)
    except (KitError, KeyError, TypeError) as error:
        return Check("notebooks", name, "DAMAGED", f"{type(error).__name__}: {error}")
    return equal("notebooks", name, f"{done} cells", f"{len(cells)} cells")


def numbers(path: Path, spec: Spec) -> dict:
    """{(row's key …, column): number} of a table; an error for a missing column, a repeated row, or text."""
    table = read_table(path, spec.keys)
    for column in (*spec.keys, *spec.numbers):
        if column not in table:
            raise KitError(f"{path.name} has no column {column!r}")
    if table.duplicated(spec.keys).any():
        raise KitError(f"{path.name} has two rows of one key")
    if "sigma" in spec.keys:
        table["sigma"] = [f"{float(sigma):g}" for sigma in table["sigma"]]
    values = table.set_index(spec.keys)[list(spec.numbers)].astype(float)
    keys = [key if isinstance(key, tuple) else (key,) for key in values.index]
    return {(*key, column): value for column in spec.numbers for key, value in zip(keys, values[column], strict=True)}


def compare_table(
    name: str, found: dict, expected: dict, kinds: dict, allowed: dict, grid: Iterable = ()
) -> list[Check]:
    """A check a number; a number that is missing on one side, or in both but in the grid, does not agree.

    Args:
        name: the table's file name.
        found: the run's numbers, from `numbers`.
        expected: the reference's.
        kinds: {column: name of its tolerance}.
        allowed: {name of a tolerance: tolerance}.
        grid: keys that have to be there.
    """
    checks = []
    for key in dict.fromkeys([*grid, *expected, *found]):
        a, b = found.get(key), expected.get(key)
        tolerance = allowed[kinds[key[-1]]]
        if a is None or b is None:
            verdict, difference = "MISSING", math.nan
        else:
            difference = a - b
            same = math.isnan(a) and math.isnan(b)  # such as the parameters of a method that has none
            verdict = PASSED if same or a == b or abs(difference) <= tolerance else "DIFFERS"
        values = ["" if value is None else value for value in (a, b)]
        checks.append(Check(name, ", ".join(key), verdict, *values, difference, tolerance))
    return checks


def grid(profile: Profile, inputs: Iterable[str]) -> list[tuple]:
    """Keys of all numbers that scores.csv has to hold. inputs: names from `input_hashes`."""
    images = [tuple(name.split("/", 1)) for name in inputs if "/" in name and not name.endswith("(weights)")]
    settings = product(profile.methods, images, profile.protocols, map(str, profile.seeds), SCORES)
    return [
        (method, *image, f"{sigma:g}", *rest)
        for method, image, *rest in settings
        for sigma in profile.sigmas_of(image[0])
    ]


def check_table(path: Path, reference: Path, profile: Profile, inputs: Iterable[str], allowed: dict) -> list[Check]:
    """A table of the run at `path` against the reference's of the same name: number by number, or as text."""
    if path.name not in TABLES:
        return [compare_text(path, reference)]
    spec = TABLES[path.name]
    found, expected = numbers(path, spec), numbers(reference, spec)
    wanted = ()
    if path.name == "scores.csv":
        found = {key: value for key, value in found.items() if key[0] in profile.methods}  # others' rows may lie there
        wanted = grid(profile, inputs)
    return compare_table(path.name, found, expected, spec.numbers, allowed, wanted)


def compare_text(path: Path, reference: Path) -> Check:
    """A printed table: the same words, and numbers that differ by at most one unit of the last digit."""
    texts = [plain(place.read_text(encoding="utf-8")) for place in (path, reference)]
    found, expected = ([*map(float, NUMBER.findall(text))] for text in texts)
    words = [NUMBER.sub("#", text) for text in texts]
    if words[0] != words[1] or len(found) != len(expected):
        return Check("printed tables", path.name, "DIFFERS", "other words, rows or columns")
    units = [10.0 ** -len(number.partition(".")[2]) for number in NUMBER.findall(texts[1])]
    apart = [abs(a - b) / unit for a, b, unit in zip(found, expected, units, strict=True)]
    worst = max(apart, default=0.0)
    verdict = PASSED if worst < 1.01 else "DIFFERS"
    return Check("printed tables", path.name, verdict, difference=worst, tolerance=1)


NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def plain(text: str) -> str:
    """A printed table without its alignment, and without bold, which moves where two values are nearly equal."""
    text = re.sub(r"\\textbf\{(.*?)\}", r"\1", text).replace("**", "")
    return re.sub(r"\s+", " ", re.sub(r":?-{2,}:?", "", text))


def check_figure(path: Path, reference: Path, tolerance: float) -> Check:
    """Mean absolute difference of the pixels, 0 to 255 scale."""
    ours, theirs = (matplotlib.image.imread(place) for place in (path, reference))
    if ours.shape != theirs.shape:
        return Check("figures", path.stem, "DIFFERS", f"{ours.shape}", f"{theirs.shape}")
    difference = 255 * float(np.abs(ours - theirs).mean())
    verdict = PASSED if difference <= tolerance else "DIFFERS"
    return Check("figures", path.stem, verdict, difference=difference, tolerance=tolerance)


def check_results(profile: Profile, folder: Path, reference: Path, inputs: Iterable[str], allowed: dict) -> list[Check]:
    """Every table and figure of the reference against the run's of the same name."""
    checks = []
    tables = sorted(path for path in (reference / "tables").glob("*") if path.name not in OPTIONAL)
    figures = sorted((reference / "figures").glob("*.png"))
    for path in [*tables, *figures]:
        ours = folder / path.relative_to(reference)
        part = "figures" if path in figures else path.name if path.name in TABLES else "printed tables"
        name = path.stem if path in figures else path.name
        if not ours.exists():
            checks.append(Check(part, name, "MISSING"))
        elif path in figures:
            checks += guarded(part, name, lambda *a: [check_figure(*a)], ours, path, allowed["figure"])
        else:
            checks += guarded(part, name, check_table, ours, path, profile, inputs, allowed)
    for name in TABLES:
        if not (reference / "tables" / name).exists():
            checks.append(Check(name, name, "MISSING", expected="a table of the reference"))
    return checks


def claim_value(claim: dict, folder: Path) -> tuple[float, float, float]:
    """(difference, low, high) in dB that a claim is about, with its interval over the images."""
    scores = read_table(folder / "tables" / "scores.csv", KEYS)
    scores["sigma"] = scores["sigma"].astype(float)
    same = (scores[list(SETTING)] == [claim[name] for name in SETTING]).all(axis=1)
    row = paired_differences(scores[same], [claim["a"], claim["b"]]).iloc[0]
    return row["difference"], row["low"], row["high"]


def check_claims(profile: Profile, folder: Path, reference: Path, tolerance: float) -> list[Check]:
    """What the README claims of this profile, from the run's scores: the same number, and the same answer."""
    checks = []
    for claim in read_json(CLAIMS):
        if claim["profile"] != profile.name:
            continue
        values = [claim_value(claim, place) for place in (folder, reference)]
        found, expected = (f"{d:+.2f} dB ({low:+.2f} to {high:+.2f}): {answer(low, high)}" for d, low, high in values)
        difference = values[0][0] - values[1][0]
        agrees = abs(difference) <= tolerance and answer(*values[0][1:]) == answer(*values[1][1:])
        verdict = PASSED if agrees else "DIFFERS"
        checks.append(Check("claims", claim["text"], verdict, found, expected, difference, tolerance))
    return checks


def optional_parts(profile: Profile, folder: Path, reference: Path) -> list[tuple[str, str]]:
    """[(part, state)] of what is not judged: optional parts, and results that the reference does not have."""
    parts = []
    if "06_benchmark" in profile.notebooks:
        for name, what in OPTIONAL.items():
            ran = (folder / "tables" / name).exists()
            parts.append((what, "run, not compared" if ran else "not run"))
    if set(load_profile("peers").datasets) & set(profile.datasets):
        there = PEER_SCORES.exists() and "cbm3d" in set(read_table(PEER_SCORES, [])["method"])
        parts.append(("CBM3D (profile peers)", "from the table of the kit" if there else "not run"))
    for path in files_of(folder):
        name = path.relative_to(folder)
        judged = name.parts[0] == "tables" or (name.parts[0] == "figures" and path.suffix == ".png")
        if judged and path.name not in OPTIONAL and not (reference / name).exists():
            parts.append((name.as_posix(), "not in the reference"))
    return parts


def judge(profile: Profile, folder: Path, reference: Path) -> list[Check]:
    """All checks of a run against a reference, and last that there are as many as the reference has recorded."""
    checks = guarded("reference", "manifest.json", check_files, reference)
    try:
        spread = read_json(reference / "tolerances.json")["spread"]
        allowed = tolerances(spread)
    except (KitError, KeyError, TypeError, AttributeError) as error:
        checks.append(Check("reference", "tolerances.json", "DAMAGED", f"{type(error).__name__}: {error}"))
        allowed = tolerances({})
    try:
        inputs = input_hashes(profile)
    except KitError as error:
        checks.append(Check("inputs", "images and weights", "MISSING", str(error)))
        inputs = {}
    checks += guarded("inputs", "inputs.json", check_inputs, inputs, reference)
    checks += guarded("images as scored", "scores.csv", check_scored_images, folder, reference)
    checks += guarded("code, libraries and weights", "scores.csv", check_code, profile, folder)
    checks += guarded("notebooks", "notebooks", check_notebooks, profile, folder)
    checks += guarded("claims", CLAIMS.name, check_claims, profile, folder, reference, allowed["difference"])
    checks += check_results(profile, folder, reference, inputs, allowed)
    try:
        expected = read_json(reference / "manifest.json")["checks"]
    except (KitError, KeyError, TypeError):
        expected = None
    return [*checks, equal("reference", "number of checks", counted(checks), expected)]


def counted(checks: list[Check]) -> int:
    """The number that a manifest records; claims, of which there may be more later, are left out."""
    return sum(check.part != "claims" for check in checks)
