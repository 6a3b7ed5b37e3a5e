"""Ablations: trained for every seed, compared with the first model, by the spread that chance makes."""

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import ttest_ind

from glowlib.data.image_files import write_png
from glowlib.errors import KitError
from glowlib.evaluation.statistics import differences_over_seeds
from glowlib.experiments.ablation import SCORES, collect, main
from glowlib.files import DATA_VARIABLE
from glowlib.training.profiles import load_profile


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
    assert "has made 1 of 2 steps: run this again to go on" in capsys.readouterr().err
    run(place, "--at_once", 2)
    runs = pd.read_csv(place / "runs" / "runs.csv")
    assert runs[["model", "seed"]].values.tolist() == [["sunet", 0], ["sunet", 1], ["gcunet", 0], ["gcunet", 1]]
    assert runs["psnr_sigma25"].nunique() == 4
    np.testing.assert_allclose(runs["mean"], runs[list(SCORES)].mean(axis=1), atol=1e-4)
    assert pd.read_csv(place / "runs" / "differences.csv")["model"].unique().tolist() == ["gcunet"]
    with pytest.raises(KitError, match="has made 2 of 3 steps"):
        collect(load_profile(place / "tiny.yaml"), place / "runs", steps=3)


@pytest.mark.parametrize("option", ["--seed", "--model=sunet"])
def test_what_the_profile_says_is_not_given_twice(option, place, capsys):
    with pytest.raises(SystemExit) as stop:
        run(place, option, *([3] if option == "--seed" else []))
    assert stop.value.code == 2
    assert "is the profile's to say" in capsys.readouterr().err


def test_one_seed_is_refused(place, capsys):
    profile = yaml.safe_load((place / "tiny.yaml").read_text())
    (place / "tiny.yaml").write_text(yaml.safe_dump({**profile, "seeds": [0]}))
    with pytest.raises(SystemExit) as stop:
        run(place)
    assert stop.value.code == 2
    assert "a spread needs at least two" in capsys.readouterr().err
