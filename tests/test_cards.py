"""What is said of the shipped models is what was measured."""

from pathlib import Path

import pandas as pd
import pytest

from glowlib.cards import card, main, minutes
from glowlib.checkpoints import list_models
from glowlib.classical import METHODS

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "results" / "reference" / "standard" / "tables"
SUMMARY = pd.read_csv(TABLES / "summary.csv")


def test_minutes_are_those_of_the_log():
    log = pd.DataFrame({"step": [50, 100, 110], "images_per_second": [40.0, 20.0, 8.0]})
    assert minutes(log, 8) == pytest.approx((10 + 20 + 10) / 60)


@pytest.mark.parametrize("name", list_models().shipped)
def test_the_card_says_what_was_measured(name):
    assert (ROOT / "results" / "models" / name / "README.md").read_text() == card(name, SUMMARY) + "\n"


def test_without_scores_one_line_says_what_to_do(tmp_path, capsys):
    for text, said in ((None, "cannot read the table"), ("method,psnr,convention\nnoisy,1,float\n", "no scores of")):
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


@pytest.mark.parametrize("name", list_models().shipped)
def test_every_model_is_above_every_classical_method_on_the_test_sets(name):
    wide = SUMMARY.pivot(index=["dataset", "convention", "sigma"], columns="method", values="psnr")
    assert len(wide) == 12
    assert (wide[name] > wide[["noisy", *METHODS]].max(axis=1)).all()
