"""The command that scores a profile."""

import pandas as pd

from glowlib.experiments.score_profile import main


def test_the_command_scores_a_sample_of_a_profile(tmp_path, capsys):
    profile = tmp_path / "tiny.yaml"
    profile.write_text("datasets: [bundled]\nsigmas: [50]\nmethods: [noisy]\n")
    main(["--profile", str(profile), "--pictures", "2", "--output", str(tmp_path / "scores.csv")])
    assert list(pd.read_csv(tmp_path / "scores.csv")["image"]) == ["astronaut.png", "coffee.png"]
    assert "noisy" in capsys.readouterr().out
