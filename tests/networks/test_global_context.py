"""Context blocks against plain references: written from the formulas, slow, with every attention matrix in memory."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import close, randn

from glowlib.networks.global_context import (
    ContextDownsample,
    GlobalContextBlock,
    GlobalContextChain,
    MapNorm,
)

pytestmark = pytest.mark.usefixtures("form")


def plain_context_block(block, x):
    """GCNet's block, map by map: pool, transform, multiply, add."""
    if block.conv_mask is None:
        context = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    else:
        logits = block.conv_mask(x).flatten(1)
        weight = logits.exp() / logits.exp().sum(1, keepdim=True)
        context = torch.einsum("bdl,bl->bd", x.flatten(2), weight)

    def bottleneck(layers):
        hidden = F.linear(context, layers[0].weight[..., 0, 0], layers[0].bias)
        mean, var = hidden.mean(1, keepdim=True), hidden.var(1, unbiased=False, keepdim=True)
        hidden = (hidden - mean) / (var + 1e-5).sqrt() * layers[1].weight[:, 0, 0] + layers[1].bias[:, 0, 0]
        return F.linear(hidden.relu(), layers[3].weight[..., 0, 0], layers[3].bias)[..., None, None]

    if block.channel_mul_conv is not None:
        x = x * bottleneck(block.channel_mul_conv).sigmoid()
    if block.channel_add_conv is not None:
        x = x + bottleneck(block.channel_add_conv)
    return x


FUSION_SETS = [("mul",), ("add",), ("mul", "add"), ("add", "mul")]


@pytest.mark.parametrize("fusion", FUSION_SETS, ids="+".join)
@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_context_block(pooling, fusion, filled):
    block = filled(GlobalContextBlock(8, 0.5, pooling, fusion)).double()
    assert (block.conv_mask is None) == (pooling == "avg")
    x = randn(2, 8, 5, 7)
    close(block(x), plain_context_block(block, x))


@pytest.mark.parametrize("fusion", FUSION_SETS[:3], ids="+".join)
@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_context_chain_is_block_by_block(pooling, fusion, filled):
    """Four blocks, whose intermediate feature maps the optimised form does not write, against four feature maps."""
    blocks = filled(GlobalContextChain(4, 8, 0.5, pooling, fusion)).double()
    x = randn(2, 8, 5, 7)
    expected = x
    for block in blocks:
        expected = plain_context_block(block, expected)
    close(blocks(x), expected)
    assert (expected - x).abs().max() > 0.1


def test_context_hidden_channels():
    """r = int(d·ratio), at least one."""
    hidden = [GlobalContextBlock(d, ratio).channel_add_conv[0].out_channels for d, ratio in ((24, 0.3), (8, 0.1))]
    assert hidden == [7, 1]


def test_fresh_context_block_keeps_or_halves():
    """Last convolutions start at zero: add gives the identity, mul sigmoid(0) = 1/2."""
    x = randn(1, 8, 4, 4).float()
    assert torch.equal(GlobalContextBlock(8, 0.25, fusion=("add",))(x), x)
    assert torch.equal(GlobalContextBlock(8, 0.25, fusion=("mul",))(x), x / 2)


def test_context_downsample(filled):
    down = filled(ContextDownsample(4)).double().eval()
    x = randn(2, 4, 6, 8)
    y = F.conv2d(F.pad(x, (1, 1, 1, 1)), down.conv_down.weight, down.conv_down.bias, stride=2)
    norm = down.norm
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    y = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    close(down(x), y.clamp(min=0))


def test_map_norm_on_one_value_a_channel(filled):
    """A variance of one value is none: the running statistics stand in, and stay as they are."""
    norm = filled(MapNorm(6)).double()
    x = randn(1, 6, 1, 1)
    before = norm.running_mean.clone()
    trained = norm.train()(x)
    assert torch.equal(norm.running_mean, before)
    close(trained, norm.eval()(x))
    # With two values it is BatchNorm again.
    norm.train()(randn(2, 6, 1, 1))
    assert not torch.equal(norm.running_mean, before)
