"""The command that scores a profile."""

import pandas as pd
import pytest

from glowlib.data.noise import PROTOCOLS
from glowlib.evaluation.benchmark import CLASSICAL
from glowlib.evaluation.peers import PEERS
from glowlib.experiments.score_profile import main
from glowlib.networks.pretrained import list_models
from glowlib.training.profiles import list_profiles, load_profile


def test_the_command_scores_a_sample_of_a_profile(tmp_path, capsys):
    profile = tmp_path / "tiny.yaml"
    profile.write_text("datasets: [bundled]\nsigmas: [50]\nmethods: [noisy]\n")
    main(["--profile", str(profile), "--images", "2", "--output", str(tmp_path / "scores.csv")])
    assert list(pd.read_csv(tmp_path / "scores.csv")["image"]) == ["astronaut.png", "coffee.png"]
    assert "noisy" in capsys.readouterr().out


def test_datasets_and_levels_can_be_others(tmp_path):
    profile = tmp_path / "tiny.yaml"
    profile.write_text("datasets: [Kodak24]\nsigmas: [10, 30]\nmethods: [noisy]\n")
    path = tmp_path / "scores.csv"
    main(["--profile", str(profile), "--datasets", "bundled", "--sigmas", "25", "--images", "1", "--output", str(path)])
    assert pd.read_csv(path)[["dataset", "sigma"]].values.tolist() == [["bundled", 25]]


@pytest.mark.parametrize(("profile", "said"), [("search", "it is for training"), ("quick", "from 1 up")])
def test_what_cannot_be_scored_is_one_line(profile, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(
            ["--profile", profile, "--images", "0" if profile == "quick" else "1", "--output", str(tmp_path / "s.csv")]
        )
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in list_profiles() if load_profile(name).methods])
def test_profiles_name_methods_and_protocols_that_exist(name):
    profile = load_profile(name)
    assert set(profile.methods) <= {*CLASSICAL, *PEERS, "cbm3d", *list_models().shipped}
    assert set(profile.protocols) <= set(PROTOCOLS)
    assert profile.datasets


def test_urban_scores_the_shipped_models_beside_dncnn_at_strong_noise():
    urban = load_profile("urban")
    assert (urban.datasets, urban.sigmas, urban.protocols) == (("Urban100",), (50,), ("float",))
    assert set(urban.methods) == {"noisy", "dncnn", *list_models().shipped}


def test_peers_stand_in_the_standard_table_and_never_last():
    methods = load_profile("standard").methods
    assert set(PEERS) <= set(methods)
    assert methods[-1] in list_models().shipped  # the method that notebooks compare with all others
