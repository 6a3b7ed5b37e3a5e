"""The table of scores: right numbers, the same whatever order or interruption they come in."""

import numpy as np
import pandas as pd
import pytest
from skimage import data

from glowlib import KitError, add_noise, denoise, load_pretrained, psnr, ssim
from glowlib.evaluation import benchmark
from glowlib.evaluation.benchmark import COMPUTING, KEYS, PACKAGE, SCORES, fingerprint, run_benchmark
from glowlib.evaluation.tables import summarise
from glowlib.files import locked, shipped_folder

IMAGES = {"tiny": [("a.png", data.astronaut()[:48, :64]), ("b.png", data.chelsea()[:40, :40])]}
METHODS = ["noisy", "wavelet"]


def run(path, **changes):
    arguments = {"datasets": IMAGES, "methods": METHODS, "sigmas": (10, 50), "protocols": ("float", "8bit")}
    return run_benchmark(path=path, progress=False, **{**arguments, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return run(tmp_path_factory.mktemp("scores") / "scores.csv")


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found.drop(columns="seconds"), expected.drop(columns="seconds"))


def test_a_row_for_every_combination(table):
    assert len(table) == 2 * 2 * 2 * 2
    assert not table.duplicated(KEYS).any()


def test_scores_are_those_of_the_metrics(table):
    name, clean = IMAGES["tiny"][0]
    noisy = add_noise(clean, 50, seed=0, name=name, protocol="8bit")
    row = table.query("image == 'a.png' and sigma == 50 and protocol == '8bit' and method == 'noisy'").iloc[0]
    expected = [psnr(clean, noisy), ssim(clean, noisy, "grey"), ssim(clean, noisy, "rgb")]
    np.testing.assert_allclose(row[SCORES].astype(float), expected, atol=1e-6)


def test_wavelet_shrinkage_removes_noise(table):
    wide = summarise(table).pivot(index=["protocol", "sigma"], columns="method", values="psnr")
    assert (wide["wavelet"] > wide["noisy"] + 1).all()


def test_subset_and_order_do_not_change_a_number(table, tmp_path):
    backwards = {"tiny": IMAGES["tiny"][::-1]}
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
    assert_same(continued, table)


def test_rows_of_other_methods_and_images_stay(table, tmp_path):
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False)
    some = run(path, datasets={"tiny": IMAGES["tiny"][:1]}, methods=["wavelet"])
    assert len(some) == 4
    assert len(pd.read_csv(path)) == len(table)
    pd.testing.assert_frame_equal(run(path), table)


def test_names_and_levels_come_back_as_they_were(tmp_path, monkeypatch):
    settings = {"datasets": {"007": IMAGES["tiny"][:1]}, "methods": ["noisy"], "sigmas": (2.5, 10.0)}
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
    monkeypatch.setattr("glowlib.evaluation.benchmark.code_fingerprint", lambda kind: "other")
    assert (run(path, sigmas=(50,))["psnr"] < 60).all()
    assert (pd.read_csv(path)["psnr"] < 60).all()  # nor do they stay in the table of a smaller run


@pytest.mark.parametrize(("suffix", "tile"), [("", "auto"), ("@32", 32), ("@whole", None)])
def test_a_network_restores_with_the_tiles_that_its_name_says(tmp_path, suffix, tile):
    name, clean = IMAGES["tiny"][0]
    table = run(tmp_path / "scores.csv", methods=[f"sglownet-small{suffix}"], sigmas=(50,), protocols=("float",))
    restored = denoise(load_pretrained("sglownet-small"), add_noise(clean, 50, seed=0, name=name), tile=tile)
    assert table["psnr"].iloc[0] == pytest.approx(psnr(clean, restored), abs=1e-5)


def test_an_unknown_method_is_named_before_anything_is_computed(tmp_path):
    with pytest.raises(KitError, match="unknown method 'bm3d'.*noisy"):
        run(tmp_path / "scores.csv", methods=["noisy", "bm3d"])
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.parametrize("kind", COMPUTING)
def test_rows_depend_on_the_files_that_compute_them(kind):
    found = [path for pattern in COMPUTING[kind] for path in PACKAGE.glob(pattern)]
    assert all(any(PACKAGE.glob(pattern)) for pattern in COMPUTING[kind])
    names = {path.relative_to(PACKAGE).as_posix() for path in found}
    needed = {"network": "networks/fast/linear.py", "classical": "evaluation/classical.yaml"}
    assert {"data/noise.py", "data/metrics.py", needed.get(kind, "evaluation/peers.py")} <= names


def test_a_library_changes_the_fingerprint(monkeypatch):
    before = fingerprint("noisy")
    benchmark.code_fingerprint.cache_clear()
    monkeypatch.setattr(benchmark, "version", lambda library: "0")
    assert fingerprint("noisy") != before
    benchmark.code_fingerprint.cache_clear()


def test_the_weights_change_the_fingerprint(tmp_path):
    shipped = shipped_folder() / "gcunet-small" / "model.safetensors"
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(shipped.read_bytes())
    assert fingerprint(str(copy)) == fingerprint("gcunet-small") == fingerprint("gcunet-small@64")
    copy.write_bytes(shipped.read_bytes() + b" ")
    assert fingerprint(str(copy)) != fingerprint("gcunet-small")


def test_a_changed_image_is_scored_again(table, tmp_path):
    path = tmp_path / "scores.csv"
    table.to_csv(path, index=False)
    changed = {"tiny": [("a.png", IMAGES["tiny"][0][1][::-1]), IMAGES["tiny"][1]]}
    assert_same(run(path, datasets=changed), run(tmp_path / "new.csv", datasets=changed))
    assert_same(run(path), table)


def test_rows_of_another_device_are_computed_again(table, tmp_path):
    path = tmp_path / "scores.csv"
    assert (table["device"] == "cpu").all()
    table.assign(psnr=99.0, device="cuda").to_csv(path, index=False)
    assert_same(run(path), table)


def test_an_image_that_fails_is_named_and_the_others_are_scored(tmp_path):
    path = tmp_path / "scores.csv"
    images = {"tiny": [("a.png", IMAGES["tiny"][0][1][:5]), IMAGES["tiny"][1]]}  # too small for SSIM
    with pytest.raises(KitError, match=r"8 of 16 scores failed.*tiny/a\.png \(noisy: KitError: SSIM") as caught:
        run(path, datasets=images)
    assert "\n" not in str(caught.value)
    assert set(pd.read_csv(path)["image"]) == {"b.png"}
    assert len(pd.read_csv(path)) == 8


def test_a_method_may_raise_anything(tmp_path, monkeypatch):
    def break_down(noisy, sigma):
        raise MemoryError

    monkeypatch.setattr(benchmark, "open_method", lambda name, device: break_down)
    with pytest.raises(KitError, match="16 of 16 scores failed.*MemoryError"):
        run(tmp_path / "scores.csv")


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(KitError, match=r"two images of tiny are called a\.png"):
        run(tmp_path / "scores.csv", datasets={"tiny": [IMAGES["tiny"][0], ("a.png", IMAGES["tiny"][1][1])]})


def test_a_table_that_another_run_writes_is_refused(tmp_path):
    path = tmp_path / "scores.csv"
    with locked(path), pytest.raises(KitError, match="another process is writing"):
        run(path)
    assert not path.exists()


def test_damaged_rows_are_computed_again_and_a_damaged_file_is_one_line(table, tmp_path):
    path = tmp_path / "scores.csv"
    damaged = table.astype({"psnr": object})
    damaged.loc[3, "psnr"] = "x"
    damaged.to_csv(path, index=False)
    assert_same(run(path), table)
    path.write_bytes(path.read_bytes().replace(b"chelsea", b"b") + b"\xff\xfe\n")
    with pytest.raises(KitError, match="is damaged"):
        run(path)
