"""The plan of a training says what it will take."""

import pytest
import torch
import yaml

from glowlib.networks import create_model
from glowlib.training.__main__ import main
from glowlib.training.config import TrainingConfig
from glowlib.training.estimate import measure


def test_the_plan_counts_what_there_is(profile, capsys):
    main(["--profile", str(profile), "--model", "gcunet", "--device", "cpu", "--dry-run", "--steps", "1000"])
    text = capsys.readouterr().out
    options = yaml.safe_load(profile.read_text())["models"]["gcunet-nano"]
    options.pop("network")
    count = sum(p.numel() for p in create_model("gcunet", **options).parameters())
    assert f"{count:,} parameters" in text
    assert "1,000 steps × 2 crops of 32²" in text
    assert f"{6 * 64 * 64 * 3 / 1e6:.1f} MB for the decoded pictures" in text
    assert not (profile.parent / "results").exists()


def test_the_planned_memory_grows_with_the_crops_at_once(nano):
    net = create_model("sunet", **nano)
    config = TrainingConfig(batch_size=4, crop=32, steps=5)
    memory = [measure(net, config, torch.device("cpu"), crops, None)[1] for crops in (1, 2, 4)]
    state = 5 * sum(p.nbytes for p in net.parameters())  # weights, gradients, averages, two moments
    assert state < memory[0] < memory[1] < memory[2]
    assert memory[2] - state == pytest.approx(4 * (memory[0] - state), rel=0.35)
