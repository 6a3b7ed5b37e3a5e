"""The paper's training pairs: the right noise, the same every time, and a manifest that tells all."""

import csv
import hashlib

import numpy as np
import pytest
from skimage import data

from glowlib import KitError
from glowlib.data.images import read_picture
from glowlib.data.paper_pairs import main, pair, prepare

PICTURE = data.coffee()


def test_noise_is_that_of_the_paper():
    grey = np.full((300, 300, 3), 128, np.uint8)
    _, noisy, *_, level = pair(grey, "grey.png", 0, sigma=20)
    assert level == 20
    error = noisy.astype(float) - 128
    # σ/256 in [0, 1] units, times 255; truncation takes half a level off the mean.
    assert error.std() == pytest.approx(20 * 255 / 256, rel=0.01)
    assert error.mean() == pytest.approx(-0.5, abs=0.15)


def test_blind_levels_are_integers_from_5_to_50():
    levels = [pair(PICTURE, "coffee.png", i, side=16)[4] for i in range(400)]
    assert all(type(level) is int for level in levels)
    assert min(levels) == 5
    assert max(levels) == 50
    assert np.mean(levels) == pytest.approx(27.5, abs=2)


def test_pairs_depend_on_their_arguments_alone():
    one, other = pair(PICTURE, "coffee.png", 3), pair(PICTURE, "coffee.png", 3)
    assert (one[1] == other[1]).all()
    for change in (("tea.png", 3, 0), ("coffee.png", 4, 0), ("coffee.png", 3, 1)):
        name, number, seed = change
        assert pair(PICTURE, name, number, seed=seed)[2:4] != one[2:4]
    clean, noisy, top, left, _ = one
    assert clean.shape == noisy.shape == (255, 255, 3)
    assert (clean == PICTURE[top : top + 255, left : left + 255]).all()


def test_files_and_manifest_agree_and_an_interrupted_run_goes_on(tmp_path):
    rows = prepare("bundled", tmp_path, crops=2, side=32)
    assert len(rows) == 10
    listed = list(csv.DictReader((tmp_path / "manifest.csv").open()))
    for row in listed:
        for part in ("clean", "noisy"):
            image = read_picture(tmp_path / part / row["file"])
            assert hashlib.sha256(image.tobytes()).hexdigest() == row[f"sha256_{part}"]
    kept, lost = tmp_path / "noisy" / rows[0]["file"], tmp_path / "noisy" / rows[1]["file"]
    before, wanted = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    prepare("bundled", tmp_path, crops=2, side=32)
    assert kept.stat().st_mtime_ns == before
    assert lost.read_bytes() == wanted


def test_pairs_of_two_settings_are_not_mixed(tmp_path):
    prepare("bundled", tmp_path, crops=1, side=32)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(KitError, match="begun with other settings"):
        prepare("bundled", tmp_path, crops=1, side=32, sigma=10)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


def test_the_command_speaks_clearly(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", "bundled", "--out", str(tmp_path), "--side", "301"])
    assert stop.value.code == 2
    assert "chelsea.png is smaller than a crop of 301 pixels" in capsys.readouterr().err
    with pytest.raises(KitError):
        pair(PICTURE[:100], "coffee.png", 0)
