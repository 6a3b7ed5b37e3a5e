"""`make reproduce`: notebooks are run, a run is judged or becomes the reference, and nothing old is taken for it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from glowlib import KitError, add_noise, load_pretrained, psnr, ssim
from glowlib.data.datasets import load_dataset
from glowlib.data.images import centre_crop
from glowlib.errors import exit_clearly
from glowlib.evaluation.tiling import denoise
from glowlib.experiments import reproduce as module
from glowlib.experiments.judge import LEAST, PASSED, check_notebook
from glowlib.experiments.reproduce import folders, main, reproduce, run_notebooks
from glowlib.experiments.score_profile import scored_images
from glowlib.files import data_folder, locked
from glowlib.training.profiles import load_profile

ROOT = Path(__file__).parents[2]
QUICK = ROOT / "results" / "reference" / "quick"


@pytest.fixture
def clone(run, tmp_path, monkeypatch):
    """The folder with results/runs/quick and results/reference/quick, as the working directory; nothing is executed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "load_profile", lambda name: run[0])
    monkeypatch.setattr(module, "run_notebooks", lambda profile, name, folder: None)
    return tmp_path


def test_an_equal_run_is_verified(clone, capsys):
    assert reproduce("quick", verify=True) == []
    assert "checks agree; see results/runs/quick/report.html" in capsys.readouterr().out


def test_the_command_exits_1_where_something_differs(clone, capsys, tamper):
    tamper(clone / "results/runs/quick/tables/summary.csv", "psnr", 1)
    with pytest.raises(SystemExit) as stop:
        main(["--verify"])
    assert stop.value.code == 1
    assert capsys.readouterr().err == "summary.csv: bundled, float, 50, wavelet, psnr: DIFFERS\n"


def test_an_old_report_is_removed_before_anything_can_fail(clone, monkeypatch):
    reproduce("quick", verify=True)
    report = clone / "results/runs/quick/report.html"
    assert report.exists()

    def fail(profile, name, folder):
        raise KitError("a notebook failed")

    monkeypatch.setattr(module, "run_notebooks", fail)
    with pytest.raises(KitError, match="a notebook failed"):
        reproduce("quick")
    assert not report.exists()


def test_a_finished_run_starts_afresh_and_an_unfinished_one_is_continued(clone):
    folder = clone / "results/runs/quick"
    (folder / "training").mkdir()
    reproduce("quick")  # no report yet: continued
    assert (folder / "tables" / "scores.csv").exists()
    (folder / "notebooks" / "06_benchmark.ipynb").unlink()
    reproduce("quick", verify=True)  # writes a report, which makes no finished run of it
    reproduce("quick")
    assert (folder / "tables" / "scores.csv").exists()
    shutil.copytree(clone / "results/reference/quick/figures", folder / "figures", dirs_exist_ok=True)
    cells = [{"cell_type": "code", "metadata": {"papermill": {"status": "completed"}}}]
    (folder / "notebooks" / "06_benchmark.ipynb").write_text(json.dumps({"cells": cells}))
    reproduce("quick")
    assert not (folder / "tables").exists()
    assert (folder / "training").is_dir()


def test_the_reference_is_looked_for_before_hours_of_work(clone, monkeypatch):
    shutil.rmtree(clone / "results/reference")
    monkeypatch.setattr(module, "run_notebooks", None)
    with pytest.raises(KitError, match="there is no reference in results/reference/quick"):
        reproduce("quick")


def test_the_first_reference_of_a_profile_runs_its_notebooks(clone, finished, monkeypatch):
    shutil.rmtree(clone / "results")
    ran = []
    monkeypatch.setattr(module, "run_notebooks", lambda *given: ran.append(shutil.copytree(finished, given[-1])))
    monkeypatch.setattr(module, "measured_spread", lambda *_: {"psnr": 1e-4})
    assert reproduce("quick", sample=1) == []
    assert reproduce("quick", sample=1) == []  # a complete run is not run again
    assert len(ran) == 1


def test_a_second_process_in_the_same_run_is_refused(clone):
    with locked(Path("results/runs/quick")), pytest.raises(KitError, match="another process is writing"):
        reproduce("quick")


@pytest.mark.parametrize("name", ["../..", "/tmp/x", "a/b", "..", ".hidden", "", "a b"])
def test_a_profiles_name_never_leads_out_of_results(run, name):
    with pytest.raises(KitError, match="a profile's name has letters"):
        folders(replace(run[0], name=name))


def test_a_profiles_name_is_checked_before_anything_is_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "report.html").write_text("mine")
    Path("p.yaml").write_text("name: ../..\ndatasets: [bundled]\nmethods: [noisy]\nnotebooks: [06_benchmark]\n")
    with pytest.raises(KitError):
        reproduce("p.yaml")
    assert (tmp_path / "notebooks").is_dir()
    assert (tmp_path / "report.html").exists()


def test_a_run_becomes_the_reference_with_its_spread(clone, tamper):
    folder, reference = clone / "results/runs/quick", clone / "results/reference/quick"
    shutil.rmtree(reference)
    profile = clone / "tiny.yaml"
    profile.write_text("datasets: [bundled]\nsigmas: [50]\nmethods: [wavelet, noisy]\n")  # the variants read this one
    tamper(folder / "tables" / "scores.csv", "psnr", 1e-3)  # a difference that the spread has to show
    old = pd.read_csv(folder / "tables" / "scores.csv").assign(psnr=99.0, fingerprint="other")  # must not count
    old.to_csv(clone / "results/runs/quick-1-thread.csv", index=False)
    (folder / "tables" / "original_scores.csv").write_text("optional")
    assert reproduce(str(profile), sample=1) == []
    measured = json.loads((reference / "tolerances.json").read_text())
    assert measured["spread"]["psnr"] == pytest.approx(1e-3, abs=1e-4)
    assert measured["spread"]["ssim_rgb"] < 1e-4
    assert (reference / "tables" / "scores.csv").read_bytes() == (folder / "tables" / "scores.csv").read_bytes()
    manifest = json.loads((reference / "manifest.json").read_text())
    assert "tables/scores.csv" in manifest["files"]
    assert not any("original" in name or name.startswith("notebooks") for name in manifest["files"])
    assert manifest["checks"] > 60


def test_notebooks_run_with_the_runs_parameters_and_sources_stay(small_profile, tmp_path, monkeypatch):
    profile = replace(small_profile, notebooks=("one",))
    monkeypatch.chdir(tmp_path)
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    given = nbformat.v4.new_code_cell('run_folder = ""\nprofile = ""', metadata={"tags": ["parameters"]})
    write = 'from pathlib import Path\n\nPath(run_folder, "made").write_text(profile)'
    notebook.cells = [given, nbformat.v4.new_code_cell(write)]
    Path("notebooks").mkdir()
    nbformat.write(notebook, "notebooks/one.ipynb")
    before = Path("notebooks/one.ipynb").read_bytes()
    run_notebooks(profile, "tiny.yaml", tmp_path / "run")
    assert (tmp_path / "run" / "made").read_text() == "tiny.yaml"
    assert Path("notebooks/one.ipynb").read_bytes() == before
    done = tmp_path / "run" / "notebooks" / "one.ipynb"
    assert check_notebook("one", done).verdict == PASSED
    notebook.cells[1].source = "raise ValueError('broken')"
    nbformat.write(notebook, "notebooks/one.ipynb")
    with pytest.raises(KitError, match=r"one\.ipynb failed with ValueError: broken"):
        run_notebooks(profile, "tiny.yaml", tmp_path / "run")
    assert check_notebook("one", done).verdict == "DIFFERS"


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
    name, clean = next(item for item in scored_images(load_profile("quick"))["bundled"] if item[0] == "chelsea.png")
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
    for name, image in load_dataset("Kodak24"):
        clean = centre_crop(image, 128)
        noisy = add_noise(clean, sigma, seed=0, name=name)
        gains.append(psnr(clean, denoise(model, noisy)) - psnr(clean, noisy))
    assert np.mean(gains) >= least
