"""The table of scores: right numbers, the same whatever order or interruption they come in."""

import numpy as np
import pandas as pd
import pytest
from skimage import data

from glowlib import KitError, add_noise, denoise, load_pretrained, psnr, ssim
from glowlib.evaluation.benchmark import COMPUTING, KEYS, PACKAGE, SCORES, run_benchmark
from glowlib.evaluation.tables import paper_layout, published, summarise, write_tables

PICTURES = {"tiny": [("a.png", data.astronaut()[:48, :64]), ("b.png", data.chelsea()[:40, :40])]}
METHODS = ["noisy", "wavelet"]


def run(path, **changes):
    arguments = {"datasets": PICTURES, "methods": METHODS, "sigmas": (10, 50), "protocols": ("float", "8bit")}
    return run_benchmark(path=path, progress=False, **{**arguments, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return run(tmp_path_factory.mktemp("scores") / "scores.csv")


def test_a_row_for_every_combination(table):
    assert len(table) == 2 * 2 * 2 * 2
    assert not table.duplicated(KEYS).any()


def test_scores_are_those_of_the_metrics(table):
    name, clean = PICTURES["tiny"][0]
    noisy = add_noise(clean, 50, seed=0, name=name, protocol="8bit")
    row = table.query("image == 'a.png' and sigma == 50 and protocol == '8bit' and method == 'noisy'").iloc[0]
    expected = [psnr(clean, noisy), ssim(clean, noisy, "grey"), ssim(clean, noisy, "rgb")]
    np.testing.assert_allclose(row[SCORES].astype(float), expected, atol=1e-6)


def test_wavelet_shrinkage_removes_noise(table):
    wide = summarise(table).pivot(index=["protocol", "sigma"], columns="method", values="psnr")
    assert (wide["wavelet"] > wide["noisy"] + 1).all()


def test_subset_and_order_do_not_change_a_number(table, tmp_path):
    backwards = {"tiny": PICTURES["tiny"][::-1]}
    other = run(tmp_path / "scores.csv", datasets=backwards, methods=["wavelet"], sigmas=(50,))
    merged = other.merge(table, on=KEYS, suffixes=("", "_all"))
    assert len(merged) == len(other) == 4
    for score in SCORES:
        assert (merged[score] == merged[f"{score}_all"]).all()


def test_an_interrupted_run_continues_after_the_last_finished_row(table, tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False, float_format="%.6f")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:10]) + "\n" + lines[10][:25])  # the tenth row was cut off
    calls = []
    monkeypatch.setattr("glowlib.evaluation.benchmark.psnr", lambda *images: calls.append(images) or psnr(*images))
    continued = run(path)
    assert len(calls) == len(table) - 9
    pd.testing.assert_frame_equal(continued.drop(columns="seconds"), table.drop(columns="seconds"))


def test_rows_of_other_methods_and_pictures_stay(table, tmp_path):
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False)
    some = run(path, datasets={"tiny": PICTURES["tiny"][:1]}, methods=["wavelet"])
    assert len(some) == 4
    assert len(pd.read_csv(path)) == len(table)
    pd.testing.assert_frame_equal(run(path), table)


def test_names_and_levels_come_back_as_they_were(tmp_path, monkeypatch):
    settings = {"datasets": {"007": PICTURES["tiny"][:1]}, "methods": ["noisy"], "sigmas": (2.5, 10.0)}
    first = run(tmp_path / "scores.csv", **settings)
    assert first[["dataset", "sigma"]].values.tolist() == [["007", 2.5], ["007", 10], ["007", 2.5], ["007", 10]]
    monkeypatch.setattr("glowlib.evaluation.benchmark.psnr", None)  # nothing is computed again
    pd.testing.assert_frame_equal(run(tmp_path / "scores.csv", **settings), first)
    again = run(tmp_path / "scores.csv", **{**settings, "sigmas": (2.5, 10)})  # 10 is 10.0
    pd.testing.assert_frame_equal(again, first)


def test_another_table_is_left_alone(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a,b\n1,2\n")
    for place, said in ((path, "another kind of table"), (tmp_path, "cannot read the table")):
        with pytest.raises(KitError, match=said):
            run(place)
    assert path.read_text() == "a,b\n1,2\n"


def test_rows_of_other_code_are_not_kept(table, tmp_path, monkeypatch):
    path = tmp_path / "scores.csv"
    table.assign(psnr=99.0).to_csv(path, index=False, float_format="%.6f")
    assert (run(path)["psnr"] == 99).all()  # trusted while the code is the same
    monkeypatch.setattr("glowlib.evaluation.benchmark.code_fingerprint", lambda: "other")
    assert (run(path, sigmas=(50,))["psnr"] < 60).all()
    assert (pd.read_csv(path)["psnr"] < 60).all()  # nor do they stay in the table of a smaller run


@pytest.mark.parametrize(("suffix", "tile"), [("", "auto"), ("@32", 32), ("@whole", None)])
def test_a_network_restores_with_the_tiles_that_its_name_says(tmp_path, suffix, tile):
    name, clean = PICTURES["tiny"][0]
    table = run(tmp_path / "scores.csv", methods=[f"sglownet-small{suffix}"], sigmas=(50,), protocols=("float",))
    restored = denoise(load_pretrained("sglownet-small"), add_noise(clean, 50, seed=0, name=name), tile=tile)
    assert table["psnr"].iloc[0] == pytest.approx(psnr(clean, restored), abs=1e-5)


def test_an_unknown_method_is_named_before_anything_is_computed(tmp_path):
    with pytest.raises(KitError, match="unknown method 'bm3d'.*noisy"):
        run(tmp_path / "scores.csv", methods=["noisy", "bm3d"])
    assert not (tmp_path / "scores.csv").exists()


def test_published_numbers_name_their_source():
    table = published(["Kodak24"])
    assert set(table["dataset"]) == {"Kodak24"}
    assert set(table["protocol"]) == {"float", "8bit"}
    assert table["source"].str.len().min() > 10
    assert len(published(["bundled"])) == 0


def test_tables_in_the_papers_layout(table, tmp_path):
    summary = summarise(table)
    shown = paper_layout(summary, "float")
    assert list(shown.index) == METHODS
    assert list(shown.columns[0]) == ["tiny", "σ = 10", "PSNR"]
    mean = table.query("protocol == 'float' and sigma == 10 and method == 'noisy'")["psnr"].mean()
    assert shown.iloc[0, 0] == f"{mean:.2f}"
    write_tables(summary, tmp_path)
    assert f"{mean:.2f}" in (tmp_path / "table_float.md").read_text()
    latex = (tmp_path / "table_float.tex").read_text()
    assert r"\toprule" in latex
    assert f"{mean:.2f}" in latex


def test_rows_depend_on_the_rooms_that_compute_them():
    computing = {path.relative_to(PACKAGE).as_posix() for pattern in COMPUTING for path in PACKAGE.glob(pattern)}
    assert {"networks/swin.py", "networks/fast/linear.py", "data/noise.py", "evaluation/tiling.py"} <= computing
    assert all(any(path.startswith(room) for path in computing) for room in ("networks/", "data/", "evaluation/"))
