"""Model cards hold what was measured."""

import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from glowlib.evaluation.classical import METHODS
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
def test_the_committed_card_is_the_generated_one(name):
    assert (ROOT / "results" / "models" / name / "README.md").read_text() == card(name, SUMMARY) + "\n"


@pytest.mark.parametrize("name", list_models().shipped)
def test_model_hubs_can_read_the_head(name):
    _, head, text = (ROOT / "results" / "models" / name / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    licence = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]
    assert head["license"] == licence.lower()
    assert (head["pipeline_tag"], head["library_name"]) == ("image-to-image", "glowlib")
    assert "image-denoising" in head["tags"]
    assert text.startswith(f"\n# {name}\n")


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
