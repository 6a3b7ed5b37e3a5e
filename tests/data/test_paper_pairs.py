"""The paper's training pairs: the right noise, the same every time, and a manifest that tells all."""

import csv
import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from glowlib import KitError
from glowlib.data.crops import PictureStore
from glowlib.data.image_files import read_picture
from glowlib.data.paper_pairs import PreparedPairs, main, pair, pairs_folder, prepare, read_pairs

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


@pytest.mark.parametrize("given", [("sigma", -5), ("crops", 0), ("crops", -1), ("side", 0), ("side", -3), ("seed", -1)])
def test_numbers_out_of_range_are_refused_before_anything_is_written(given, tmp_path):
    with pytest.raises(KitError, match=f"--{given[0]} is a number from .* up, not {given[1]}"):
        prepare("bundled", tmp_path / "new", **dict([given]))
    assert not (tmp_path / "new").exists()


def test_images_of_one_stem_are_refused(tmp_path, monkeypatch):
    """Their pairs would have the same names, and one image would be lost."""
    monkeypatch.setenv("GLOWLIB_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "mine").mkdir(parents=True)
    for name, value in (("a.png", 0), ("a.jpg", 200)):
        Image.fromarray(np.full((40, 40, 3), value, np.uint8)).save(tmp_path / "data" / "mine" / name)
    with pytest.raises(KitError, match=r"the pairs of a.jpg and a.png would have the same names"):
        prepare("mine", tmp_path / "pairs", crops=1, side=32)


@pytest.mark.parametrize("damage", [b"{", b"\xff"])
def test_damaged_settings_are_one_line(damage, tmp_path):
    (tmp_path / "settings.json").write_bytes(damage)
    with pytest.raises(KitError, match="begun with other settings"):
        prepare("bundled", tmp_path, crops=1, side=32)


def test_the_command_speaks_clearly(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--dataset", "bundled", "--out", str(tmp_path), "--side", "301"])
    assert stop.value.code == 2
    assert "chelsea.png is smaller than a crop of 301 pixels" in capsys.readouterr().err
    with pytest.raises(KitError):
        pair(PICTURE[:100], "coffee.png", 0)


def test_pairs_come_once_an_epoch_each_in_another_order(pairs, tmp_path):
    stamp, pictures = read_pairs(pairs, {"rocket.png"})
    samples = PreparedPairs(PictureStore(pictures, tmp_path / "store", stamp), pairs)
    epochs = [[samples[epoch * 16 + i] for i in range(16)] for epoch in range(2)]
    sums = [[clean[:, :31, :31].sum().item() for _, clean in epoch] for epoch in epochs]
    assert sums[0] != sums[1]
    # A turned crop is padded before it is turned: what does not depend on that are its sorted values.
    values = [sorted(tuple(clean.unique().tolist()) for _, clean in epoch) for epoch in epochs]
    assert values[0] == values[1]
    assert len(set(values[0])) == 16
    again = samples[3]
    assert all(torch.equal(a, b) for a, b in zip(again, epochs[0][3], strict=True))
    for noisy, clean in epochs[0]:
        assert noisy.shape == clean.shape == (3, 32, 32)
        assert 0.01 < (noisy - clean).std() < 0.25  # the same crop, turned alike


def test_pairs_of_one_level_and_missing_pairs(pairs, recipe):
    assert pairs_folder(pairs).name == "pairs"
    one = recipe(data="bundled", pairs="pairs", sigma=(50, 50))
    assert pairs_folder(one).name == "pairs-sigma50"
    with pytest.raises(KitError, match=r"glowlib pairs --dataset bundled --out .*pairs-sigma50 --sigma 50"):
        read_pairs(one, set())
