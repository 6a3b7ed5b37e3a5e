"""The weights of cross-attention, and the two numbers that describe them."""

import math

import pytest
import torch

from glowlib.experiments.attention_maps import AttentionWeights, cross_attention_weights
from glowlib.networks import create_model, fast

NANO = {"embed_dim": 8, "patch_size": 2, "window_size": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}


@pytest.mark.parametrize("name", ["glownet", "sglownet"])
def test_every_cross_attention_is_found_and_the_output_is_the_networks(name):
    torch.manual_seed(0)
    net = create_model(name, **NANO, training_size=32).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.inference_mode(), fast.disabled():
        own = net(image)
    found = cross_attention_weights(net, image)
    stages = [part.stage for part in found]
    assert len(stages) == len(set(stages)) == 7
    assert stages[:2] == ["encoder 0", "encoder 1"]
    for part in found:
        tokens = math.prod(part.grid)
        assert part.weights.shape[1:] == (tokens, tokens)
        torch.testing.assert_close(part.weights.sum(-1), torch.ones(part.weights.shape[:2]))
    with torch.inference_mode(), fast.disabled():
        assert torch.equal(net(image), own)


def weights_of(values):
    return AttentionWeights("encoder 0", (2, 2), torch.as_tensor(values, dtype=torch.float32)[None])


def test_keys_in_use():
    assert weights_of(torch.full((4, 4), 0.25)).keys_in_use() == pytest.approx(4)
    assert weights_of(torch.eye(4)).keys_in_use() == pytest.approx(1)
    assert weights_of([[0.5, 0.5, 0, 0]] * 4).keys_in_use() == pytest.approx(2)


def test_difference_of_queries():
    assert weights_of([[0.7, 0.1, 0.1, 0.1]] * 4).difference_of_queries() == pytest.approx(0)
    assert weights_of(torch.eye(4)).difference_of_queries() == pytest.approx(0.75)
