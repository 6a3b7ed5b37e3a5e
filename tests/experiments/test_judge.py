"""A verdict that can fail: whatever is tampered with, missing, renamed or damaged is named."""

import json
import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from glowlib.experiments import judge as judging
from glowlib.experiments.judge import PASSED, compare_text, judge, optional_parts


def failed(run):
    """{(part, name): verdict} of what does not agree."""
    return {(check.part, check.name): check.verdict for check in judge(*run) if check.verdict != PASSED}


def test_an_equal_run_agrees_in_every_check(run):
    checks = judge(*run)
    assert [check for check in checks if check.verdict != PASSED] == []
    parts = [check.part for check in checks]
    counts = {part: parts.count(part) for part in dict.fromkeys(parts)}
    assert counts == {
        "reference": 4 + 2 + 1 + 2 + 1,  # four CSV tables, two printed, a figure, inputs and tolerances, the number
        "inputs": 5,
        "images as scored": 5,
        "code, libraries and weights": 2,
        "notebooks": 1,
        "claims": 1,
        "scores.csv": 2 * 5 * 3,
        "summary.csv": 2 * 3,
        "paired_differences.csv": 4,
        "cost.csv": 2 * 3,
        "printed tables": 2,
        "figures": 1,
    }


@pytest.mark.parametrize(("change", "red"), [(2.9e-4, False), (3.1e-4, True)])
def test_a_tampered_score_is_named_when_out_of_tolerance(run, tamper, change, red):
    tamper(run[1] / "tables" / "scores.csv", "psnr", change)
    found = failed(run)
    assert found == ({("scores.csv", "wavelet, bundled, astronaut.png, 50, float, 0, psnr"): "DIFFERS"} if red else {})


@pytest.mark.parametrize(
    ("table", "column", "name"),
    [
        ("summary.csv", "ssim_rgb", "bundled, float, 50, wavelet, ssim_rgb"),
        ("paired_differences.csv", "low", "bundled, float, 50, wavelet, noisy, low"),
        ("paired_differences.csv", "images", "bundled, float, 50, wavelet, noisy, images"),
    ],
)
def test_every_table_is_compared(run, tamper, table, column, name):
    tamper(run[1] / "tables" / table, column, 1)
    assert failed(run) == {(table, name): "DIFFERS"}


def test_costs_are_compared_but_not_this_machines_seconds(run):
    path = run[1] / "tables" / "cost.csv"
    path.write_text(path.read_text().replace("wavelet,0.09", "wavelet,9.9"))
    assert failed(run) == {}
    path.write_text(path.read_text().replace("25.1,,", "25.2,7,"))
    name = "wavelet, PSNR at the strongest noise, dB"
    assert failed(run) == {("cost.csv", name): "DIFFERS", ("cost.csv", "wavelet, parameters"): "DIFFERS"}


def test_printed_tables_are_compared(run):
    for suffix in (".md", ".tex"):
        path = run[1] / "tables" / f"table_float{suffix}"
        text = path.read_text()
        path.write_text(text.replace("15.07", "15.09"))
        assert failed(run) == {("printed tables", path.name): "DIFFERS"}
        path.write_text(text.replace("wavelet", "another"))
        assert failed(run) == {("printed tables", path.name): "DIFFERS"}
        path.write_text(text)


def test_a_printed_number_may_round_to_its_neighbour_and_bold_may_move(tmp_path):
    one, other = tmp_path / "one.md", tmp_path / "other.md"
    one.write_text("| a | **28.30** |\n|:--|------:|\n| b |   9.99 |\n")
    other.write_text("| a |  28.29 |\n|:--|-------:|\n| b | **10.00** |\n")
    assert compare_text(one, other).verdict == PASSED
    other.write_text("| a |  28.28 |\n|:--|-------:|\n| b | 9.99 |\n")
    assert compare_text(one, other).verdict == "DIFFERS"


TABLES = ["scores.csv", "summary.csv", "paired_differences.csv", "cost.csv", "table_float.md", "table_float.tex"]


@pytest.mark.parametrize("name", [*(f"tables/{name}" for name in TABLES), "figures/photograph.png"])
@pytest.mark.parametrize("side", [1, 2])
def test_a_missing_file_is_named(run, side, name):
    (run[side] / name).unlink()
    verdicts = failed(run)
    stem = name.split("/")[1].removesuffix(".png")
    assert any(stem in named for _, named in verdicts)
    assert ("reference", "number of checks") in verdicts or side == 1
    if side == 2:
        assert verdicts["reference", name] == "MISSING"


@pytest.mark.parametrize("name", ["tolerances.json", "inputs.json", "manifest.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b"\xff"])
def test_a_reference_without_its_records_is_red(run, name, content):
    path = run[2] / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert any(name in named for _, named in failed(run))


def test_a_renamed_file_of_the_reference_is_red_twice(run):
    figures = run[2] / "figures"
    (figures / "photograph.png").rename(figures / "other.png")
    verdicts = failed(run)
    assert verdicts["reference", "figures/photograph.png"] == verdicts["reference", "figures/other.png"] == "MISSING"
    assert verdicts["figures", "other"] == "MISSING"


def test_a_changed_reference_is_red_although_the_run_agrees_with_it(run, tamper):
    for place in run[1:]:
        tamper(place / "tables" / "summary.csv", "psnr", 1)
    assert failed(run) == {("reference", "tables/summary.csv"): "DIFFERS"}


def test_nothing_at_all_is_not_agreement(run):
    profile, folder, reference = run
    for place in (folder, reference):
        for path in (place / "tables").glob("*.csv"):
            path.write_text(path.read_text().splitlines()[0] + "\n")
        shutil.rmtree(place / "figures")
    verdicts = failed(run)
    assert sum(part == "scores.csv" and verdict == "MISSING" for (part, _), verdict in verdicts.items()) == 2 * 5 * 3
    assert verdicts["reference", "number of checks"] == "DIFFERS"


@pytest.mark.parametrize("change", [{"sigmas": (50, 30)}, {"set_sigmas": {"bundled": [50, 30]}}], ids=str)
def test_the_grid_of_the_profile_has_to_be_there(run, change):
    profile, *places = run
    verdicts = failed((replace(profile, **change), *places))
    assert verdicts["scores.csv", "wavelet, bundled, rocket.png, 30, float, 0, psnr"] == "MISSING"


DAMAGES = {
    "a text for a number": ("tables/scores.csv", lambda b: b.replace(b",50,float,0,2", b",50,float,0,x", 1)),
    "a column less": ("tables/summary.csv", lambda b: b.replace(b"ssim_rgb", b"another")),
    "a row twice": ("tables/summary.csv", lambda b: b + b.splitlines(keepends=True)[-1]),
    "no UTF-8": ("tables/paired_differences.csv", lambda b: b + b"\xff\xfe"),
    "an empty table": ("tables/cost.csv", lambda b: b""),
    "bytes for text": ("tables/table_float.md", lambda b: b"\xff\xfe" + b),
    "a cut figure": ("figures/photograph.png", lambda b: b[:200]),
    "no figure": ("figures/photograph.png", lambda b: b"GIF89a"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("side", [1, 2])
def test_a_damaged_file_is_a_line_not_a_traceback(run, side, damage):
    name, change = DAMAGES[damage]
    path = run[side] / name
    content = path.read_bytes()
    path.write_bytes(change(content))
    assert path.read_bytes() != content
    stem = path.name.removesuffix(".png")
    (found,) = [c for c in judge(*run) if c.name == stem and c.part != "reference" and c.verdict == "DAMAGED"][-1:]
    assert found.found.count("\n") == 0


def test_a_changed_figure_is_named(run):
    figure = run[1] / "figures" / "photograph.png"
    plt.imsave(figure, np.zeros((32, 32, 3)))
    assert failed(run) == {("figures", "photograph"): "DIFFERS"}
    plt.imsave(figure, np.zeros((32, 31, 3)))
    assert failed(run) == {("figures", "photograph"): "DIFFERS"}


def test_rows_of_other_code_or_weights_are_named(run):
    path = run[1] / "tables" / "scores.csv"
    lines = path.read_text().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + ",0123456789ab"
    path.write_text("\n".join(lines) + "\n")
    assert failed(run) == {("code, libraries and weights", "wavelet"): "DIFFERS"}


def test_scores_of_other_pixels_are_named(run):
    path = run[1] / "tables" / "scores.csv"
    row = path.read_text().splitlines()[1].split(",")
    path.write_text(path.read_text().replace(row[-3], "0" * 16))
    assert failed(run) == {("images as scored", "bundled/astronaut.png"): "DIFFERS"}


def test_another_input_is_named(run):
    path = run[2] / "inputs.json"
    expected = json.loads(path.read_text())
    expected["bundled/chelsea.png"] = "0" * 64
    path.write_text(json.dumps(expected))
    assert failed(run)["inputs", "bundled/chelsea.png"] == "DIFFERS"


@pytest.mark.parametrize(("status", "verdict"), [("pending", "DIFFERS"), ("failed", "DIFFERS"), (None, "DAMAGED")])
def test_a_notebook_that_did_not_run_to_its_end_is_named(run, status, verdict):
    path = run[1] / "notebooks" / "06_benchmark.ipynb"
    cells = [{"cell_type": "code", "metadata": {"papermill": {"status": status}} if status else {}}]
    path.write_text(json.dumps({"cells": cells}))
    assert failed(run) == {("notebooks", "06_benchmark"): verdict}
    path.unlink()
    assert failed(run) == {("notebooks", "06_benchmark"): "MISSING"}


def test_a_claim_is_judged_by_number_and_answer(run, tamper):
    (claim,) = [check for check in judge(*run) if check.part == "claims"]
    assert claim.found == claim.expected
    assert claim.found.endswith(": yes")
    for line in range(1, 11):
        tamper(run[1] / "tables" / "scores.csv", "psnr", 0.01 * (line % 2), line)  # every second row is wavelet's
    assert failed(run)["claims", "wavelet minus noisy"] == "DIFFERS"


def test_claims_that_cannot_be_read_are_red(run):
    judging.CLAIMS.unlink()
    assert failed(run) == {("claims", "claims.json"): "DAMAGED"}


def test_what_is_optional_is_counted_apart(run):
    profile, folder, reference = run
    assert dict(optional_parts(*run))["scores of the published checkpoint"] == "not run"
    (folder / "tables" / "original_scores.csv").write_text("anything")
    (folder / "figures" / "new.png").write_bytes(b"anything")
    parts = dict(optional_parts(*run))
    assert parts["scores of the published checkpoint"] == "run, not compared"
    assert parts["figures/new.png"] == "not in the reference"
    assert failed(run) == {}


def test_cbm3d_is_named_where_its_table_would_serve(run, monkeypatch, tmp_path):
    profile = replace(run[0], datasets=("Kodak24",))
    monkeypatch.setattr(judging, "PEER_SCORES", tmp_path / "none.csv")
    assert ("CBM3D (profile peers)", "not run") in optional_parts(profile, *run[1:])
