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


def readme_answer():
    return " ".join((ROOT / "README.md").read_text().split("## Does global context help?")[1].split("##")[0].split())


def held_out(name):
    """The validation rows of a shipped model's log, with the minutes of training until each."""
    log = pd.read_csv(ROOT / "results" / "models" / name / "log.csv")
    log["minutes"] = (log["step"].diff().fillna(log["step"].iloc[0]) * 8 / log["images_per_second"]).cumsum() / 60
    return log.dropna(subset="psnr_sigma50").set_index("step")


LEVELS = [f"psnr_sigma{sigma}" for sigma in (10, 25, 50)]


def test_the_readme_claims_no_more_than_the_test_scores_show():
    scores = pd.read_csv(TABLES / "scores.csv", dtype={"protocol": str})
    scores = scores[(scores["protocol"] == "float") & (scores["sigma"] == 50)]
    found = set(re.findall(r"\S+ dB \(\S+ to \S+\) on \w+", readme_answer()))
    measured = paired_differences(scores, ["sglownet-small", "sunet-small"]).itertuples()
    assert found == {f"{r.difference:+.2f} dB ({r.low:+.2f} to {r.high:+.2f}) on {r.dataset}" for r in measured}


def test_the_readme_says_how_the_lead_shrinks():
    lead = held_out("sglownet-small")[LEVELS] - held_out("sunet-small")[LEVELS]
    said = [[f"{value:+.2f}" for value in lead.loc[step]] for step in (4000, 12000)]
    early, late = (f"{a}, {b} and {c} dB" for a, b, c in said)
    assert f"from {early} (σ = 10, 25, 50) after 4,000 steps to {late} after 12,000" in readme_answer()


def test_the_readme_compares_equal_training_times():
    for name, minutes_, label in (("sglownet-small", 34, "S-GLOWNet"), ("sunet-small", 36, "SUNet")):
        log = held_out(name)
        row = log.loc[(log["minutes"] - minutes_).abs().idxmin()]
        assert round(row["minutes"]) == minutes_
        assert label in readme_answer()
        assert "{:.2f}, {:.2f} and {:.2f} dB".format(*row[LEVELS]) in readme_answer()


def test_the_cost_of_s_glownet_is_the_measured_one():
    spent = {}
    for name in ("sunet-small", "sglownet-small"):
        log = pd.read_csv(ROOT / "results" / "models" / name / "log.csv")
        spent[name] = minutes(log, 8), cost(name)["gflops"]
    time, operations = (a / b for a, b in zip(spent["sglownet-small"], spent["sunet-small"], strict=True))
    said = f"takes {operations:.0f} times SUNet's operations at 256² pixels and took {time:.1f} times its training time"
    assert said in readme_answer()
