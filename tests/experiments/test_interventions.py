"""Interventions that change nothing give the network's own output; the others are undone afterwards."""

import numpy as np
import pandas as pd
import pytest
import torch

from glowlib.experiments import interventions
from glowlib.experiments.interventions import (
    attention_of,
    confined_to,
    context_of,
    losses,
    measure,
    uniform_attention,
    within_radius,
    without_chains,
)
from glowlib.networks import create_model, fast
from glowlib.networks.global_context import GlobalContextBlock

NANO = {"embed_dim": 8, "patch_size": 2, "window_size": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
SIDE = 32


@pytest.fixture(params=["gcunet", "glownet", "sglownet"])
def net(request):
    torch.manual_seed(0)
    model = create_model(request.param, **NANO, training_size=SIDE).eval()
    for block in model.modules():  # their last layers start at zero: give the blocks an effect
        if isinstance(block, GlobalContextBlock):
            for bottleneck in filter(None, (block.channel_mul_conv, block.channel_add_conv)):
                torch.nn.init.normal_(bottleneck[-1].weight)
    with torch.inference_mode(), fast.disabled():
        yield model


@pytest.fixture
def images():
    return torch.rand(2, 1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def test_interventions_are_undone(net, images):
    own = net(images[0])
    changes = [without_chains(net), context_of(net, images[1])]
    if net.name != "gcunet":
        changes += [attention_of(uniform_attention), attention_of(confined_to(2, SIDE))]
    for change in changes:
        with change:
            assert not torch.equal(net(images[0]), own)
        assert torch.equal(net(images[0]), own)


def test_an_intervention_that_is_only_named_changes_nothing(net, images):
    own = net(images[0])
    changes = interventions.interventions(net, images[1])
    assert torch.equal(net(images[0]), own)
    for change in changes.values():
        with change:
            pass
        assert torch.equal(net(images[0]), own)


def test_each_intervention_is_measured_by_itself(net, images):
    own = net(images[0])
    for name in interventions.interventions(net, images[1]):
        with interventions.interventions(net, images[0])[name]:  # other interventions are named beside it
            changed = net(images[0])
        if name == "swapped" or name.startswith("radius 64"):  # with its own context, and within the whole image
            torch.testing.assert_close(changed, own)
        else:
            assert not torch.equal(changed, own)


def test_an_image_with_its_own_context_is_unchanged(net, images):
    own = net(images[0])
    with context_of(net, images[0]):
        torch.testing.assert_close(net(images[0]), own)


def test_a_radius_over_the_whole_image_changes_nothing(net, images):
    own = net(images[0])
    with attention_of(confined_to(2 * SIDE, SIDE)):
        torch.testing.assert_close(net(images[0]), own)


def test_radius_is_a_distance_between_tokens():
    near = within_radius((3, 4), 1).reshape(3, 4, 3, 4)
    assert near[1, 1].int().tolist() == [[0, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0]]


def test_uniform_attention_is_attention_with_equal_keys():
    q, v = torch.rand(2, 6, 8), torch.rand(2, 6, 8)
    expected = confined_to(100, 6)(q, torch.ones_like(q), v, 2, (2, 3))
    torch.testing.assert_close(uniform_attention(q, q, v, 2, (2, 3)), expected)


def test_measure_scores_each_image_under_each_intervention():
    torch.manual_seed(0)
    net = create_model("sglownet", **NANO, training_size=SIDE).eval()
    values = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    rows = pd.DataFrame(measure(net, [(f"{i}.png", image) for i, image in enumerate(values)], sigmas=(25,)))
    assert len(rows) == 3 * 8
    assert not rows.duplicated(["intervention", "image", "sigma"]).any()
    table = losses(rows.assign(network="nano", dataset="random"))
    wide = rows.pivot_table("psnr", "image", "intervention")
    for row in table.itertuples():
        assert row.difference == pytest.approx((wide[row.intervention] - wide["none"]).mean())
        assert row.low <= row.difference <= row.high
    # The chain's blocks start as the identity: without them nothing changes.
    assert table.set_index("intervention").difference["chain removed"] == 0


def test_the_command_writes_the_scores_of_every_network_into_a_new_folder(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    monkeypatch.setattr(
        interventions, "load_pretrained", lambda name: create_model("gcunet", **NANO, training_size=SIDE)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    monkeypatch.setattr(interventions, "load_dataset", lambda name: [("a.png", pixels[0]), ("b.png", pixels[1])])
    interventions.main(["--out", str(tmp_path / "new" / "folder"), "--side", str(SIDE), "--device", "cpu"])
    table = pd.read_csv(tmp_path / "new" / "folder" / "interventions.csv")
    assert list(table["network"].unique()) == ["sunet-small", "gcunet-small", "glownet-small", "sglownet-small"]
    assert set(table["intervention"]) >= {"none"}
    assert table["psnr"].notna().all()
    assert "scores of each image" in capsys.readouterr().out
