"""Trainings in time slices: each slice ends in time, the next one continues, and together they are the whole."""

import subprocess
import time

import pytest
import torch
import yaml
from skimage import data

from glowlib.data.image_files import write_png
from glowlib.files import DATA_VARIABLE
from glowlib.training import train
from glowlib.training.sweep import failure_reason, main, shared_cores


@pytest.fixture
def place(tmp_path, nano, monkeypatch):
    """A folder of images, and a profile of two models that names another set."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "photos").mkdir()
    for i in range(4):
        write_png(tmp_path / "photos" / f"{i}.png", data.coffee()[50 * i :][:48, 200:264])
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in nano.items()}
    recipe = {"steps": 3, "batch_size": 2, "crop": 32, "hold_out": 1, "precision": "float32"}
    models = {f"{name}-nano": {"network": name, **options} for name in ("sunet", "gcunet")}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({"training": recipe, "models": models}, sort_keys=False))
    return tmp_path


def piece(place, *more):
    given = [
        "--pictures",
        place / "photos",
        "--profile",
        place / "tiny.yaml",
        "--out",
        place / "runs",
        "--device",
        "cpu",
    ]
    main([str(part) for part in (*given, *more)])


def test_pieces_add_up(place, capsys, monkeypatch):
    piece(place, "--minutes", 0)  # a step each, whatever the time
    assert "sunet-nano: 1 steps\ngcunet-nano: 1 steps\n" in capsys.readouterr().out
    piece(place, "--at_once", 2, "--results", place / "all")
    assert "sunet-nano: 3 steps\ngcunet-nano: 3 steps\n" in capsys.readouterr().out
    files = {"sunet-nano.csv", "sunet-nano.safetensors", "gcunet-nano.csv", "gcunet-nano.safetensors"}
    assert {path.name for path in (place / "all").iterdir()} == files
    monkeypatch.setenv(DATA_VARIABLE, str(place))
    whole = train(place / "tiny.yaml", "sunet", data="photos", out=place / "whole", device="cpu")
    assert (place / "all" / "sunet-nano.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_trainings_side_by_side_share_the_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    found = [shared_cores(n).get("OMP_NUM_THREADS") for n in (1, 2, 3, 8)]
    assert found == [None, "2", "1", "1"]


def test_the_error_line_of_a_training_is_shown(place, capsys):
    for more, said in (
        (["--crop", 50], "sunet-nano: 0.png of photos is smaller"),
        (["--models", "x"], "unknown"),
        (["--at_once", "0"], "--at_once is a number from 1 up"),
        (["--minutes", "nan"], "--minutes is a number from 0 up"),
        (["--pictures", "~/absent"], "there is no folder"),
    ):
        with pytest.raises(SystemExit) as leaving:
            piece(place, *more)
        assert leaving.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


def test_one_failed_training_does_not_withhold_the_others(place, capsys):
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    profile["models"]["sunet-nano"]["training"] = {"lr": 1e30, "clip": 0.0, "warmup": 0}  # diverges
    (place / "tiny.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    with pytest.raises(SystemExit) as leaving:
        piece(place)
    assert leaving.value.code == 2
    assert "sunet-nano: the loss is" in capsys.readouterr().err
    weights = [path.name for path in (place / "runs" / "results").glob("*.safetensors")]
    assert weights == ["gcunet-nano.safetensors"]


def test_a_damaged_log_does_not_withhold_the_others(place, capsys):
    piece(place, "--minutes", 0)
    (place / "runs" / "sunet-nano" / "log.csv").write_text("step\nx\n")
    with pytest.raises(SystemExit) as leaving:
        piece(place)
    assert leaving.value.code == 2
    captured = capsys.readouterr()
    assert "gcunet-nano: 3 steps" in captured.out
    assert "sunet-nano/log.csv" in captured.err
    assert (place / "runs" / "results" / "gcunet-nano.safetensors").exists()


def test_an_early_end_ends_the_trainings(place, monkeypatch):
    started = []

    class Process(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            started.append(self)

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        piece(place, "--steps", 100_000)
    assert started[0].poll() is not None


def test_why_a_training_ended(tmp_path):
    (tmp_path / "output.txt").write_text("net: 30%\rnet: 40%\nerror: no space is left\n")
    assert failure_reason(tmp_path / "output.txt", 2) == "no space is left"
    (tmp_path / "output.txt").write_text("net: 30%\rnet: 40%")
    assert failure_reason(tmp_path / "output.txt", -9) == f"exit status -9, see {tmp_path / 'output.txt'}"
