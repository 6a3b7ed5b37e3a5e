"""The study: networks trained with several seeds, scored on the same images, compared by seed and by image."""

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import ttest_ind, ttest_rel

from glowlib.data.image_files import write_png
from glowlib.errors import KitError
from glowlib.evaluation.statistics import differences_over_seeds, holm
from glowlib.experiments.study import HELD_OUT as SCORES
from glowlib.experiments.study import SCORE_COLUMNS, collect, compare, main, with_rows
from glowlib.files import DATA_VARIABLE
from glowlib.training.profiles import Profile, load_profile


def table(values):
    """values: {model: scores by seed}."""
    found = [(model, seed, score) for model, scores in values.items() for seed, score in enumerate(scores)]
    rows = [{"model": model, "seed": seed, **dict.fromkeys((*SCORES, "mean"), score)} for model, seed, score in found]
    return pd.DataFrame(rows)


def test_two_models_have_students_interval():
    a, b = (30.1, 30.4, 30.2), (31.0, 30.7, 30.6)
    found = differences_over_seeds(table({"a": a, "b": b}), (*SCORES, "mean")).set_index("score").loc["mean"]
    expected = ttest_ind(b, a).confidence_interval(0.95)
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))
    assert (found.low, found.high) == pytest.approx(tuple(expected))


def test_the_spread_is_pooled_over_all_models():
    found = differences_over_seeds(table({"a": (30, 30), "b": (31, 31), "c": (29, 31)}), (*SCORES, "mean"))
    means = found[found.score == "mean"].set_index("model")
    assert means.difference.tolist() == [1, 0]
    widths = means.high - means.low
    assert widths["b"] == pytest.approx(widths["c"])
    assert widths["b"] == pytest.approx(
        2 * 3.182446 * np.sqrt(2 / 3), rel=1e-5
    )  # t of 3 degrees of freedom, variance 2/3


@pytest.fixture
def place(tmp_path, nano, monkeypatch, photograph):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "photos").mkdir()
    for i in range(3):
        write_png(tmp_path / "photos" / f"{i}.png", photograph[20 * i :][:48, :64])
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in nano.items()}
    recipe = {"data": "photos", "steps": 2, "batch_size": 2, "crop": 32, "hold_out": 1, "precision": "float32"}
    models = {name: {"network": name, **options} for name in ("sunet", "gcunet")}
    profile = {"training": recipe, "models": models, "seeds": [0, 1]}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    return tmp_path


def run(place, *more):
    main([str(part) for part in ("--profile", place / "tiny.yaml", "--out", place / "runs", "--device", "cpu", *more)])


def test_every_model_is_trained_with_every_seed(place, capsys):
    with pytest.raises(SystemExit) as stop:
        run(place, "--minutes", 0)  # a step each
    assert stop.value.code == 2
    assert "has made 1 of 2 steps: run this again to continue" in capsys.readouterr().err
    run(place, "--at_once", 2)
    runs = pd.read_csv(place / "runs" / "runs.csv")
    assert runs[["model", "seed"]].values.tolist() == [["sunet", 0], ["gcunet", 0], ["sunet", 1], ["gcunet", 1]]
    assert runs["psnr_sigma25"].nunique() == 4
    np.testing.assert_allclose(runs["mean"], runs[list(SCORES)].mean(axis=1), atol=1e-4)
    assert pd.read_csv(place / "runs" / "differences.csv")["model"].unique().tolist() == ["gcunet"]
    with pytest.raises(KitError, match="has made 2 of 3 steps"):
        collect(load_profile(place / "tiny.yaml"), place / "runs", steps=3)


@pytest.mark.parametrize("option", ["--seed", "--model=sunet"])
def test_seeds_and_models_are_given_by_the_profile_alone(option, place, capsys):
    with pytest.raises(SystemExit) as stop:
        run(place, option, *([3] if option == "--seed" else []))
    assert stop.value.code == 2
    assert "the profile lists the seeds and models" in capsys.readouterr().err


def test_one_seed_is_refused(place, capsys):
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    (place / "tiny.yaml").write_text(yaml.safe_dump({**profile, "seeds": [0]}))
    with pytest.raises(SystemExit) as stop:
        run(place)
    assert stop.value.code == 2
    assert "a spread needs at least two" in capsys.readouterr().err


def scores_of(values):
    """values: {(model, seed): PSNR of each image}."""
    rows = [
        {
            "model": model,
            "seed": seed,
            "dataset": "set",
            "image": f"{i}.png",
            "sigma": 50,
            "psnr": psnr,
            "ssim_rgb": 0.5,
        }
        for (model, seed), psnrs in values.items()
        for i, psnr in enumerate(psnrs)
    ]
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def test_differences_are_paired_by_seed():
    """Both networks follow the seed, which moves their scores by 1 dB: the difference does not."""
    scores = scores_of({("a", 0): [30.3, 30.1], ("a", 1): [31.3, 31.1], ("b", 0): [30, 30], ("b", 1): [31, 31.1]})
    (row,) = compare(scores, [("a", "b")]).itertuples()
    assert row.seeds == 2
    assert row.difference == pytest.approx(0.175)
    assert (row.low, row.high) == pytest.approx(ttest_rel([30.2, 31.2], [30, 31.05]).confidence_interval(0.95))
    assert row.image_low == pytest.approx(0.05)
    assert row.image_high == pytest.approx(0.3)
    assert row.primary


def test_only_seeds_that_both_networks_have_are_compared():
    scores = scores_of({("a", s): [30 + s, 31] for s in (0, 1, 2)} | {("b", s): [30, 31] for s in (0, 1)})
    (row,) = compare(scores, [("a", "b")]).itertuples()
    assert row.seeds == 2
    assert row.difference == pytest.approx(0.25)


def test_exploratory_comparisons_are_corrected_and_the_primary_is_not():
    rng = np.random.default_rng(0)
    scores = scores_of({(m, s): 30 + rng.normal(0, 0.1, 4) for m in "abc" for s in (0, 1, 2)})
    found = compare(scores, [("a", "b"), ("a", "c"), ("b", "c")])
    assert found["primary"].tolist() == [True, False, False]
    assert found["p_holm"][0] == found["p"][0]
    np.testing.assert_allclose(found["p_holm"][1:], holm(found["p"][1:]))


def test_the_study_scores_every_training_on_the_same_images(place):
    """Two networks, two seeds, a set of one's own of which a central crop is scored: trained, scored and compared."""
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    profile |= {
        "datasets": ["photos"],
        "sigmas": [50],
        "methods": ["noisy"],
        "tile": 32,
        "centre_crops": {"photos": 40},
    }
    (place / "tiny.yaml").write_text(yaml.safe_dump({**profile, "comparisons": [["sunet", "gcunet"]]}, sort_keys=False))
    run(place)
    scores = pd.read_csv(place / "runs" / "scores.csv")
    assert scores.groupby(["model", "seed"]).size().to_dict() == {
        **{(m, s): 3 for m in ("sunet", "gcunet") for s in (0, 1)},
        ("noisy", -1): 3,
    }
    assert scores["psnr"].nunique() > 12
    written = pd.read_csv(place / "runs" / "differences.csv")
    pd.testing.assert_frame_equal(written, compare(scores, [("sunet", "gcunet")]), rtol=1e-2, atol=1e-3)
    assert written["seeds"].tolist() == [2]


def test_a_data_set_may_have_noise_levels_of_its_own(place, photograph):
    (place / "more").mkdir()
    for i in range(2):
        write_png(place / "more" / f"{i}.png", photograph[32 * i :][:32, :32])
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    profile |= {"datasets": ["photos", "more"], "sigmas": [10, 50], "set_sigmas": {"more": [50]}, "methods": ["noisy"]}
    (place / "tiny.yaml").write_text(
        yaml.safe_dump({**profile, "comparisons": [["sunet", "gcunet"]], "tile": 32}, sort_keys=False)
    )
    run(place)
    scores = pd.read_csv(place / "runs" / "scores.csv")
    for _, part in scores.groupby(["model", "seed"]):
        assert part.groupby(["dataset", "sigma"]).size().to_dict() == {
            ("photos", 10): 3,
            ("photos", 50): 3,
            ("more", 50): 2,
        }
    assert len(pd.read_csv(place / "runs" / "differences.csv")) == 3


def test_rows_of_other_trainings_stay(tmp_path):
    """In any order of the parts; a training that is made again replaces its rows."""
    profile = Profile("study", models={"a": {}, "b": {}})
    rows = pd.DataFrame(
        [("noisy", -1, 20.0), ("a", 0, 30.0), ("b", 0, 31.0), ("a", 1, 32.0), ("b", 1, 33.0)],
        columns=["model", "seed", "psnr"],
    )
    path = tmp_path / "scores.csv"
    worse = rows.assign(psnr=rows["psnr"] - 1)
    for part in (rows.iloc[[4, 0]], worse.iloc[[3, 0]], rows.iloc[[1, 3, 0]], rows.iloc[[2, 0]]):
        with_rows(part, path, profile).to_csv(path, index=False)
    pd.testing.assert_frame_equal(pd.read_csv(path), rows)


def test_a_part_of_the_study_is_written_before_anything_can_be_compared(place, capsys):
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    profile |= {"datasets": ["photos"], "sigmas": [50], "methods": ["noisy"], "comparisons": [["sunet", "gcunet"]]}
    (place / "tiny.yaml").write_text(yaml.safe_dump(profile, sort_keys=False))
    with pytest.raises(SystemExit) as stop:
        run(place, "--results", place / "results", "--models", "gcunet", "--seeds", 1)
    assert stop.value.code == 2
    assert "no comparison of the profile has two seeds" in capsys.readouterr().err
    assert pd.read_csv(place / "results" / "runs.csv")[["model", "seed"]].values.tolist() == [["gcunet", 1]]
    assert set(pd.read_csv(place / "results" / "scores.csv")["model"]) == {"noisy", "gcunet"}


@pytest.mark.parametrize(("option", "value"), [("--models", "nano"), ("--seeds", "7")])
def test_models_and_seeds_are_those_of_the_profile(option, value, place, capsys):
    with pytest.raises(SystemExit) as stop:
        run(place, option, value)
    assert stop.value.code == 2
    assert f"has no {option[2:-1]} {value}; it has" in capsys.readouterr().err
