"""The plan of a training: what it counts and estimates."""

import pytest
import torch
import yaml
from tiny import NETWORKS

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
    assert f"{6 * 64 * 64 * 3 / 1e6:.1f} MB for the decoded images" in text
    assert not (profile.parent / "results").exists()


@pytest.mark.parametrize("network", NETWORKS)
def test_the_estimated_memory_grows_with_the_micro_batch(network, nano):
    """In proportion, but for tensors that a batch of any size saves, such as folded weights."""
    net = create_model(network, **nano)
    config = TrainingConfig(batch_size=4, crop=32, steps=5, precision="float32")
    memory = [measure(net, config, torch.device("cpu"), crops, None).memory for crops in (1, 2, 4)]
    state = 5 * sum(p.nbytes for p in net.parameters())  # weights, gradients, EMA weights, two moments
    assert state < memory[0] < memory[1] < memory[2]
    assert memory[2] - state == pytest.approx(4 * (memory[0] - state), rel=0.25)


def test_the_plan_with_activation_checkpointing_saves_memory(profile, capsys):
    memory = []
    for more in ([], ["--recompute"]):
        main(["--profile", str(profile), "--model", "sunet", "--device", "cpu", "--dry-run", "--crop", "64", *more])
        line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("memory"))
        memory.append(float(line.split("about ")[1].split(" MB")[0]))
        assert "micro-batches of 2" in line
    assert memory[1] < memory[0]
