"""What is said of the shipped models is what was measured."""

import re
from pathlib import Path

import pandas as pd
import pytest

from glowlib.evaluation.classical import METHODS
from glowlib.evaluation.statistics import paired_differences
from glowlib.experiments.cost import cost
from glowlib.experiments.model_cards import card, main, minutes
from glowlib.networks.pretrained import list_models

ROOT = Path(__file__).parents[2]
TABLES = ROOT / "results" / "reference" / "standard" / "tables"
SUMMARY = pd.read_csv(TABLES / "summary.csv")
MODELS = ("gcunet-small", "sunet-small", "glownet-small", "sglownet-small")


def test_minutes_are_those_of_the_log():
    log = pd.DataFrame({"step": [50, 100, 110], "images_per_second": [40.0, 20.0, 8.0]})
    assert minutes(log, 8) == pytest.approx((10 + 20 + 10) / 60)


def test_one_model_of_each_network_is_shipped():
    assert set(MODELS) <= set(list_models().shipped)


@pytest.mark.parametrize("name", list_models().shipped)
def test_the_card_says_what_was_measured(name):
    assert (ROOT / "results" / "models" / name / "README.md").read_text() == card(name, SUMMARY) + "\n"


def test_without_scores_one_line_says_what_to_do(tmp_path, capsys):
    for text, said in ((None, "cannot read the table"), ("method,psnr,protocol\nnoisy,1,float\n", "no scores of")):
        if text:
            (tmp_path / "summary.csv").write_text(text)
        with pytest.raises(SystemExit) as stop:
            main(["--tables", str(tmp_path)])
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("name", list_models().shipped)
def test_half_precision_weights_stay_small(name):
    assert (ROOT / "results" / "models" / name / "model.safetensors").stat().st_size <= 8e6


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_above_every_classical_method_on_the_test_sets(name):
    wide = SUMMARY.pivot(index=["dataset", "protocol", "sigma"], columns="method", values="psnr")
    assert len(wide) == 12
    assert (wide[name] > wide[["noisy", *METHODS]].max(axis=1)).all()


def test_the_answer_of_the_readme_is_the_measured_one():
    """At σ = 50 for each network and set, and no interval that was not measured."""
    scores = pd.read_csv(TABLES / "scores.csv", dtype={"protocol": str})
    scores = scores[scores["protocol"] == "float"]
    answer = (ROOT / "README.md").read_text().split("## Does global context help?")[1].split("##")[0]
    found = set(re.findall(r"\S+ dB \(\S+ to \S+\) on \w+", answer))
    measured = {}
    for name in ("sglownet-small", "glownet-small", "gcunet-small"):
        for row in paired_differences(scores, [name, "sunet-small"]).itertuples():
            measured[f"{row.difference:+.2f} dB ({row.low:+.2f} to {row.high:+.2f}) on {row.dataset}"] = row.sigma
    assert {text for text, sigma in measured.items() if sigma == 50} <= found <= set(measured)


def test_the_cost_of_asking_is_the_measured_one():
    answer = " ".join((ROOT / "README.md").read_text().split("## Does global context help?")[1].split("##")[0].split())
    spent = {}
    for name in ("sunet-small", "sglownet-small"):
        log = pd.read_csv(ROOT / "results" / "models" / name / "log.csv")
        assert f"{log['step'].iloc[-1]:,} steps" in answer
        spent[name] = minutes(log, 8), cost(name)["gflops"]
    time, operations = (a / b for a, b in zip(spent["sglownet-small"], spent["sunet-small"], strict=True))
    assert f"took {time:.1f} times SUNet's training time and takes {operations:.0f} times its operations" in answer
