"""The report turns red for a tampered number, a missing figure, another input; and green when all agree."""

import json
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from skimage import data

from glowlib import KitError, add_noise, load_pretrained, psnr, ssim
from glowlib.data.datasets import load_dataset
from glowlib.errors import exit_clearly
from glowlib.evaluation.benchmark import run_benchmark
from glowlib.evaluation.tables import summarise, write_tables
from glowlib.evaluation.tiling import denoise
from glowlib.experiments.report import LEAST, input_hashes, write_report
from glowlib.experiments.reproduce import main, run_notebooks
from glowlib.files import data_folder
from glowlib.training.profiles import load_profile

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "results" / "reference" / "quick"
PROFILE = replace(load_profile("quick"), datasets=("bundled",), methods=("noisy",))


@pytest.fixture
def run(tmp_path):
    """(folder, reference): a small finished run, and a reference that it agrees with."""
    folder, reference = tmp_path / "runs" / "quick", tmp_path / "reference" / "quick"
    pictures = {"tiny": [("a.png", data.astronaut()[:32, :32])]}
    for place in (folder, reference):
        table = run_benchmark(pictures, ["noisy"], (10, 50), place / "tables" / "scores.csv", progress=False)
        write_tables(summarise(table), place / "tables")
        (place / "figures").mkdir()
        plt.imsave(place / "figures" / "picture.png", data.astronaut()[:32, :32])
    spread = dict.fromkeys(LEAST, 1e-4)
    (reference / "tolerances.json").write_text(json.dumps({"over": "nothing", "spread": spread}))
    (reference / "inputs.json").write_text(json.dumps(input_hashes(PROFILE)))
    return folder, reference


def tamper(path, column, change):
    lines = path.read_text().splitlines()
    at = lines[0].split(",").index(column)
    cells = lines[1].split(",")
    cells[at] = f"{float(cells[at]) + change:.6f}"
    path.write_text("\n".join([lines[0], ",".join(cells), *lines[2:]]) + "\n")


def test_an_equal_run_agrees(run):
    failures, count = write_report(PROFILE, *run)
    assert failures == []
    assert count == 5 + 2 * 2 * 3 + 1  # pictures, numbers in two tables, figure
    text = (run[0] / "report.md").read_text()
    assert f"All {count} checks agree" in text
    assert "<table>" in (run[0] / "report.html").read_text()


@pytest.mark.parametrize(("change", "red"), [(2.9e-4, False), (3.1e-4, True)])
def test_a_tampered_number_is_named_when_out_of_tolerance(run, change, red):
    tamper(run[0] / "tables" / "scores.csv", "psnr", change)
    failures, _ = write_report(PROFILE, *run)
    assert failures == (["scores.csv: noisy, tiny, a.png, 10, float, 0, psnr"] if red else [])


def test_a_missing_row_is_named(run):
    path = run[0] / "tables" / "summary.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    failures, _ = write_report(PROFILE, *run)
    assert [f for f in failures if "summary.csv" in f and "50" in f] == failures != []


def test_a_missing_and_a_changed_figure_are_named(run):
    figure = run[0] / "figures" / "picture.png"
    plt.imsave(figure, np.zeros((32, 32, 3)))
    assert write_report(PROFILE, *run)[0] == ["figure picture"]
    figure.unlink()
    assert write_report(PROFILE, *run)[0] == ["figure picture"]


def test_another_input_is_named(run):
    expected = json.loads((run[1] / "inputs.json").read_text())
    expected["bundled/chelsea.png"] = "0" * 64
    (run[1] / "inputs.json").write_text(json.dumps(expected))
    assert write_report(PROFILE, *run)[0] == ["input bundled/chelsea.png"]


def test_notebooks_run_with_the_runs_parameters_and_sources_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    given = nbformat.v4.new_code_cell('run_folder = ""', metadata={"tags": ["parameters"]})
    write = 'from pathlib import Path\n\nPath(run_folder, "made").write_text("here")'
    notebook.cells = [given, nbformat.v4.new_code_cell(write)]
    Path("notebooks").mkdir()
    nbformat.write(notebook, "notebooks/one.ipynb")
    before = Path("notebooks/one.ipynb").read_bytes()
    run_notebooks(replace(PROFILE, notebooks=("one",)), tmp_path / "run")
    assert (tmp_path / "run" / "made").read_text() == "here"
    assert Path("notebooks/one.ipynb").read_bytes() == before
    notebook.cells[1].source = "raise ValueError('broken')"
    nbformat.write(notebook, "notebooks/one.ipynb")
    with pytest.raises(KitError, match=r"one\.ipynb failed with ValueError: broken"):
        run_notebooks(replace(PROFILE, notebooks=("one",)), tmp_path / "run")


def test_a_run_becomes_the_reference_with_its_spread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(
        "datasets: [bundled]\nsigmas: [50]\nmethods: [noisy, wavelet]\nnotebooks: [05_benchmark]\n"
    )
    tables = Path("results/runs/tiny/tables")
    run_benchmark(["bundled"], ["noisy", "wavelet"], [50], tables / "scores.csv", progress=False)
    tamper(tables / "scores.csv", "psnr", 1e-3)  # a difference that the spread has to show
    write_tables(summarise(pd.read_csv(tables / "scores.csv")), tables)
    Path("results/runs/tiny/figures").mkdir()
    old = pd.read_csv(tables / "scores.csv").assign(psnr=99.0, fingerprint="other weights")  # these must not count
    old.to_csv("results/runs/tiny-1-thread.csv", index=False)
    with pytest.raises(SystemExit) as stop:
        main(["--profile", "tiny.yaml", "--write-reference", "--sample", "1"])
    assert stop.value.code == 0
    measured = json.loads(Path("results/reference/tiny/tolerances.json").read_text())
    assert measured["spread"]["psnr"] == pytest.approx(1e-3, abs=1e-4)
    assert measured["spread"]["ssim_rgb"] < 1e-4
    assert Path("results/reference/tiny/tables/scores.csv").read_bytes() == (tables / "scores.csv").read_bytes()


def test_the_command_speaks_clearly(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments, said in ((["--profile", "quik"], "unknown profile"), (["--verify"], "make reproduce")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said in error
        assert error.count("\n") == 1


def test_only_the_kits_own_errors_are_shortened():
    @exit_clearly
    def command():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


@pytest.mark.parametrize("sigma", [10, 50])
def test_the_committed_scores_come_out_again(sigma):
    scores = pd.read_csv(QUICK / "tables" / "scores.csv")
    spread = json.loads((QUICK / "tolerances.json").read_text())["spread"]
    name, clean = next(item for item in load_dataset("bundled") if item[0] == "chelsea.png")
    noisy = add_noise(clean, sigma, seed=0, name=name)
    restored = denoise(load_pretrained("sglownet-small"), noisy)
    row = scores[(scores.method == "sglownet-small") & (scores.image == name) & (scores.protocol == "float")]
    row = row[row.sigma == sigma].iloc[0]
    for score, value in (("psnr", psnr(clean, restored)), ("ssim_grey", ssim(clean, restored))):
        assert abs(value - row[score]) <= max(3 * spread[score], LEAST[score])


@pytest.mark.skipif(not (data_folder() / "Kodak24").is_dir(), reason="Kodak24 is not in the data folder")
@pytest.mark.parametrize(("sigma", "least"), [(10, 5), (30, 10), (50, 12)])
def test_the_shipped_model_gains_on_kodak24(sigma, least):
    """Centre crops keep it short; the full frames are scored by the standard profile."""
    model = load_pretrained("sglownet-small")
    gains = []
    for name, picture in load_dataset("Kodak24"):
        top, left = ((side - 128) // 2 for side in picture.shape[:2])
        clean = picture[top : top + 128, left : left + 128]
        noisy = add_noise(clean, sigma, seed=0, name=name)
        gains.append(psnr(clean, denoise(model, noisy)) - psnr(clean, noisy))
    assert np.mean(gains) >= least
