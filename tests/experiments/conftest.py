"""What tests of the verdict share: a small finished run, and a reference made of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from skimage import data

from glowlib.evaluation.benchmark import run_benchmark
from glowlib.evaluation.statistics import paired_differences
from glowlib.evaluation.tables import summarise, write_tables
from glowlib.experiments import judge
from glowlib.experiments.reproduce import copy_as_reference
from glowlib.training.profiles import load_profile

METHODS = ("wavelet", "noisy")
SMALL = {"methods": METHODS, "sigmas": (50,), "protocols": ("float",), "notebooks": ("06_benchmark",)}
CLAIM = {"profile": "quick", "text": "wavelet minus noisy", "dataset": "bundled", "protocol": "float", "sigma": 50}


@pytest.fixture(scope="session")
def small_profile():
    """The quick profile with two methods, one level and one notebook."""
    return replace(load_profile("quick"), **SMALL)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, small_profile):
    """The folder of a run: tables, figures, a completed notebook."""
    folder = tmp_path_factory.mktemp("runs") / "quick"
    tables = folder / "tables"
    scores = run_benchmark(["bundled"], METHODS, (50,), tables / "scores.csv", progress=False)
    write_tables(summarise(scores), tables)
    paired_differences(scores, METHODS).to_csv(tables / "paired_differences.csv", index=False, float_format="%.6f")
    header = 'method,seconds a megapixel,"PSNR at the strongest noise, dB",parameters,gflops'
    (tables / "cost.csv").write_text(f"{header}\nwavelet,0.09,25.1,,\nnoisy,0.0,15.07,,\n")
    (folder / "figures").mkdir()
    plt.imsave(folder / "figures" / "photograph.png", data.astronaut()[:32, :32])
    (folder / "notebooks").mkdir()
    cells = [{"cell_type": "code", "metadata": {"papermill": {"status": "completed"}}} for _ in range(3)]
    (folder / "notebooks" / "06_benchmark.ipynb").write_text(json.dumps({"cells": cells}))
    return folder


@pytest.fixture
def run(tmp_path, finished, small_profile, monkeypatch):
    """(profile, folder, reference): a copy of the run, and a reference made of it."""
    monkeypatch.setattr(judge, "CLAIMS", tmp_path / "claims.json")
    (tmp_path / "claims.json").write_text(json.dumps([CLAIM | {"a": "wavelet", "b": "noisy"}]))
    folder, reference = tmp_path / "results" / "runs" / "quick", tmp_path / "results" / "reference" / "quick"
    shutil.copytree(finished, folder)
    spread = {"psnr": 1e-4, "ssim_grey": 1e-5, "ssim_rgb": 1e-5}
    copy_as_reference(small_profile, folder, reference, {"over": "nothing", "spread": spread})
    return small_profile, Path(folder), Path(reference)


@pytest.fixture(scope="session")
def tamper():
    """tamper(path, column, change, line=1): add to a number in a CSV file."""

    def tamper(path, column, change, line=1):
        lines = path.read_text().splitlines()
        cells = lines[line].split(",")
        at = lines[0].split(",").index(column)
        cells[at] = f"{float(cells[at]) + change:.6f}"
        lines[line] = ",".join(cells)
        path.write_text("\n".join(lines) + "\n")

    return tamper
