"""The parts against plain references: written from the formulas, slow, with every attention matrix in memory."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glowlib import swin
from glowlib.networks.fast.attention import attention
from glowlib.networks.global_context import (
    ContextDownsample,
    GlobalContextBlock,
    MapNorm,
    chain_coefficients,
    context_blocks,
    context_chain,
)
from glowlib.networks.cross_attention import FUSIONS, position_encoding
from glowlib.networks.denoising_head import DenoisingHead
from glowlib.networks.fast.linear import Linear, linear_add, linear_gelu, linear_prelu
from glowlib.networks.swin import PatchEmbed, PatchMerging, Reorder, SwinBlock, regroup, swin_blocks, window_mask, windows_of
from glowlib.networks.upsample import DualUpsample


def randn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# Windows


def plain_swin_block(block, x, num_heads, window, shift, scale):
    """A Swin block by the definition: all tokens of the grid at once, and no padding to attend to.

    Token (r, c) lies, after the cyclic shift of the padded grid, at ((r - shift) mod H, (c - shift) mod W).
    Tokens of one window attend to each other; between a token that came round the edge and one that did
    not, the logit is lowered by 100.
    """
    batch, height, width, dim = x.shape
    padded_h, padded_w = math.ceil(height / window) * window, math.ceil(width / window) * window
    r, c = (t.flatten() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    row, col = (r - shift) % padded_h, (c - shift) % padded_w
    same_window = (row // window)[:, None] == (row // window)
    same_window &= (col // window)[:, None] == (col // window)
    torn = ((r < shift)[:, None] != (r < shift)) | ((c < shift)[:, None] != (c < shift))
    down, right = row[:, None] - row + window - 1, col[:, None] - col + window - 1
    table = block.attn.relative_position_bias_table
    index = (down * (2 * window - 1) + right).where(same_window, 0)

    tokens = x.reshape(batch, height * width, dim)
    q, k, v = block.attn.qkv(block.norm1(tokens)).reshape(batch, -1, 3, num_heads, dim // num_heads).unbind(2)
    logits = scale * torch.einsum("bqhd,bkhd->bhqk", q, k) + table[index].permute(2, 0, 1) - 100.0 * torn
    attention = logits.masked_fill(~same_window, -torch.inf).softmax(-1)
    out = torch.einsum("bhqk,bkhd->bqhd", attention, v).reshape(batch, -1, dim)
    tokens = tokens + block.attn.proj(out)
    hidden = block.mlp.fc1(block.norm2(tokens))
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return (tokens + block.mlp.fc2(hidden)).reshape(x.shape)


@pytest.mark.parametrize("scale", [None, 8])
@pytest.mark.parametrize(
    ("window", "shift", "height", "width"),
    [
        (4, 0, 8, 8),
        (4, 2, 8, 8),
        (4, 2, 4, 4),  # one window, shifted: planned for a larger picture
        (4, 2, 7, 10),
        (4, 0, 7, 10),
        (4, 2, 1, 3),  # smaller than a window
        (5, 2, 9, 11),
        (3, 1, 3, 7),
        (1, 0, 3, 5),
    ],
)
def test_swin_block(window, shift, height, width, scale, filled):
    """With the published scale of 8, logits differ by more than the mask's 100: it must be added, not -inf."""
    block = filled(SwinBlock(12, 3, window, shift, scale)).double()
    x = randn(2, height, width, 12)
    expected = plain_swin_block(block, x, 3, window, shift, 0.5 if scale is None else scale)
    close(block(x), expected)


def test_logits_can_outweigh_the_mask(filled):
    """The case behind -100 against -inf: large queries see across the shift's seam, as the published ones do."""
    block = filled(SwinBlock(12, 3, 4, 2, 8)).double()
    with torch.no_grad():
        block.attn.qkv.weight.mul_(4)
    x = randn(1, 7, 10, 12)
    expected = plain_swin_block(block, x, 3, 4, 2, 8)
    close(block(x), expected)
    mask = window_mask(7, 10, 4, 2, x.device)
    original = swin.window_mask
    try:
        swin.windows_of.cache_clear()
        swin.real_tokens.cache_clear()
        swin.window_mask = lambda *_: mask.masked_fill(mask == -100, -torch.inf)
        assert (block(x) - expected).abs().max() > 1e-3
    finally:
        swin.window_mask = original
        swin.windows_of.cache_clear()
        swin.real_tokens.cache_clear()


@pytest.mark.parametrize("shift", [0, 2])
def test_gaps_are_never_attended_to(shift, filled, monkeypatch):
    """Whatever fills the windows' gaps, no token changes; and the tokens themselves are where they belong."""
    block = filled(SwinBlock(12, 3, 4, shift, 8)).double()
    x = randn(2, 6, 9, 12)
    base = block(x)
    order, mask, (fill, places) = swin.real_tokens(6, 9, 4, shift, x.device)
    assert sorted(order.tolist()) == list(range(54))
    assert torch.equal(fill[places], torch.arange(54))
    assert len(fill) == 8 * 12
    other = torch.full_like(fill, 17)
    other[places] = torch.arange(54)
    assert not torch.equal(other, fill)
    monkeypatch.setattr(swin, "real_tokens", lambda *_: (order, mask, (other, places)))
    close(block(x), base)
    other[places] = torch.arange(54).flip(0)
    assert (block(x) - base).abs().max() > 1e-3


def test_window_mask_by_hand():
    """A row of five tokens, window 2, shifted by one: [1 2] [3 4] [pad 0], and 0 came round."""
    assert window_mask(4, 4, 2, 0, torch.device("cpu")) is None
    mask = window_mask(2, 5, 2, 0, torch.device("cpu"))
    inf = torch.inf
    assert mask.shape == (3, 4, 4)
    assert not mask[:2].any()
    # Columns 4 and padding: real queries (0 and 2) do not see keys 1 and 3; padded queries are left free.
    assert mask[2].tolist() == [[0, -inf, 0, -inf], [0, 0, 0, 0], [0, -inf, 0, -inf], [0, 0, 0, 0]]
    shifted = window_mask(2, 4, 2, 1, torch.device("cpu"))
    # Rows came round everywhere (one window high); columns only in the last window.
    assert shifted[0].tolist() == [[0, 0, -100, -100], [0, 0, -100, -100], [-100, -100, 0, 0], [-100, -100, 0, 0]]
    assert (shifted[1] == -100.0 * (1 - torch.eye(4))).all()


@pytest.mark.parametrize(("height", "width", "window", "shift"), [(1, 1, 8, 4), (5, 3, 4, 2), (9, 17, 8, 4)])
def test_no_query_is_left_without_a_key(height, width, window, shift):
    mask = window_mask(height, width, window, shift, torch.device("cpu"))
    assert (mask > -torch.inf).any(-1).all()


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"), [(8, 8, 4, 0), (8, 8, 4, 2), (7, 10, 4, 2), (3, 9, 4, 0)]
)
def test_windows_that_need_a_mask_come_last(height, width, window, shift):
    """The order is that of the windows of the rolled grid, but for theirs; each mask is its window's."""
    cpu = torch.device("cpu")
    order, mask = windows_of(height, width, window, shift)
    rows, columns = math.ceil(height / window) * window, math.ceil(width / window) * window
    rolled = torch.arange(rows * columns).view(rows, columns).roll((-shift, -shift), (0, 1))
    cut = [
        rolled[r : r + window, c : c + window].flatten()
        for r in range(0, rows, window)
        for c in range(0, columns, window)
    ]
    assert sorted(order.tolist()) == list(range(rows * columns))
    every = window_mask(height, width, window, shift, cpu)
    count = 0 if mask is None else len(mask)
    for i, tokens in enumerate(order.view(-1, window**2)):
        (place,) = [j for j, w in enumerate(cut) if torch.equal(w, tokens)]
        masked = i >= len(cut) - count
        assert masked == (every is not None and bool(every[place].any()))
        assert not masked or torch.equal(mask[i - len(cut) + count], every[place])


def test_reordering_and_its_gradient():
    there, back = regroup(5, 8, 4, 0, 2, torch.device("cpu"))
    x = randn(2, 40, 3).requires_grad_()
    assert torch.equal(Reorder.apply(x, there, back), x[:, there])
    assert torch.equal(Reorder.apply(Reorder.apply(x, there, back), back, there), x)
    assert torch.autograd.gradcheck(lambda x: Reorder.apply(x, there, back), x)


def test_every_second_block_shifts():
    blocks = swin_blocks(8, 2, 4, 2, None, [0.0, 0.1, 0.2])
    assert [block.shift for block in blocks] == [0, 2, 0]
    assert [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks] == [0.0, 0.1, 0.2]


@pytest.mark.parametrize("patch", [2, 4])
def test_patch_embed(patch, filled):
    """Each patch, flattened, times the kernel as a matrix; row-major tokens."""
    embed = filled(PatchEmbed(6, patch)).double()
    x = randn(2, 6, 3 * patch, 2 * patch)
    out = embed(x)
    assert out.shape == (2, 3, 2, 6)
    for r in range(3):
        for c in range(2):
            flat = x[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].flatten(1)
            close(out[:, r, c], embed.norm(flat @ embed.proj.weight.flatten(1).T + embed.proj.bias))


def test_patch_merging_order(filled):
    """(row, column) = (0, 0), (1, 0), (0, 1), (1, 1)."""
    merge = filled(PatchMerging(5)).double()
    x = randn(2, 4, 6, 5)
    joined = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1)
    close(merge(x), F.linear(merge.norm(joined), merge.reduction.weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_linear_layers(dtype):
    """Without a gradient the fused kernels compute what PyTorch's own layers do."""
    layer, x, other = Linear(24, 40).to(dtype), randn(2, 7, 24).to(dtype), randn(2, 7, 40, seed=1).to(dtype)
    bend = torch.nn.PReLU(init=-0.4).to(dtype)
    expected = [layer(x), F.gelu(layer(x)), layer(x) + other, bend(layer(x))]
    assert all(y.requires_grad for y in expected)
    with torch.no_grad():
        found = [layer(x), linear_gelu(x, layer), linear_add(x, layer, other)]
        found.append(linear_prelu(x, layer.weight, layer.bias, bend))
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 0.03}[dtype]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize(("tokens", "dtype"), [(300, torch.float32), (9, torch.bfloat16), (300, torch.bfloat16)])
def test_attention_by_hand(tokens, dtype, gradient):
    """Heads of 12 channels become 16 where that pays; a scale of the caller's stays the caller's."""
    q, k, v = given = [randn(1, 2, tokens, 12, seed=i).to(dtype) for i in range(3)]
    before, bias = [t.clone() for t in given], randn(1, 2, tokens, tokens, seed=3).to(dtype)
    for scale in (None, 0.7):
        logits = q.double() @ k.double().mT * (12**-0.5 if scale is None else scale)
        tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.03}[dtype]
        for added in (None, bias):
            expected = (logits if added is None else logits + added.double()).softmax(-1) @ v.double()
            with torch.set_grad_enabled(gradient):
                found = attention(q, k, v, added, scale)
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("tokens", [64, 300, 1100])
def test_attention_trains_in_bfloat16(tokens):
    """However it is computed: outputs and gradients are those of double precision, up to bfloat16's digits."""
    given = [randn(2, 2, tokens, 12, seed=i) for i in range(3)] + [randn(1, 2, tokens, tokens, seed=3)]
    lower = [t.bfloat16().requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in lower]
    q, k, v, bias = exact
    expected = (0.3 * q @ k.mT + bias).softmax(-1) @ v
    found = attention(*lower, scale=0.3)
    assert found.dtype == torch.bfloat16
    weight = randn(*expected.shape, seed=4)
    (expected * weight).sum().backward()
    (found.double() * weight).sum().backward()
    for a, b in ((found, expected), *((x.grad, y.grad) for x, y in zip(lower, exact, strict=True))):
        assert (a.double() - b).norm() < 0.02 * b.norm()


# Global context


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
    """Four blocks whose intermediate maps are never written, against four maps."""
    blocks = filled(context_blocks(4, 8, 0.5, pooling, fusion)).double()
    x = randn(2, 8, 5, 7)
    expected = x
    for block in blocks:
        expected = plain_context_block(block, expected)
    close(context_chain(blocks, x), expected)
    assert (expected - x).abs().max() > 0.1


@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_coefficients_of_a_product(pooling, filled):
    """The context of basis @ x, from x: the product is never made."""
    blocks = filled(context_blocks(3, 8, 0.5, pooling, ("mul", "add"))).double()
    x, basis = randn(2, 5, 6, 7), randn(8, 5, seed=1)
    expected = chain_coefficients(blocks, torch.einsum("dn,bnhw->bdhw", basis, x))
    for a, b in zip(chain_coefficients(blocks, x, basis), expected, strict=True):
        close(a, b)


def test_downsample_of_a_product(filled):
    """With and without a gradient, and where the zeros around the map meet its constant."""
    down = filled(ContextDownsample(8)).double().eval()
    x, matrix = randn(2, 5, 6, 8), randn(2, 8, 5, seed=1)
    expected = down(torch.einsum("bdn,bnhw->bdhw", matrix, x))
    close(down.of_product(matrix, x), expected)
    with torch.no_grad():
        close(down.of_product(matrix, x), expected.detach())


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


# Cross-attention


def plain_attention(q, k, v, num_heads):
    """softmax(q kᵀ / sqrt(d_head)) v, head by head, matrix by matrix."""
    size = q.shape[-1] // num_heads
    heads = [slice(h * size, (h + 1) * size) for h in range(num_heads)]
    parts = [(q[..., h] @ k[..., h].mT / size**0.5).softmax(-1) @ v[..., h] for h in heads]
    return torch.cat(parts, dim=-1)


def plain_position(height, width, dim):
    place = torch.zeros(height, width, dim, dtype=torch.float64)
    for row in range(height):
        for col in range(width):
            u, v = col / max(1, width - 1), row / max(1, height - 1)
            for j in range(dim // 2):
                omega = 10000 ** (-2 * j / dim)
                place[row, col, 2 * j : 2 * j + 2] = torch.tensor([math.sin(u * omega), math.cos(v * omega)])
    return place.reshape(height * width, dim)


def plain_rotation(t, height, width, num_heads):
    """Each head's halves t1, t2: t1·cos(u·f) - t2·sin(u·f) and t2·cos(v·f) + t1·sin(v·f)."""
    out = torch.zeros_like(t)
    size = t.shape[-1] // num_heads
    for row in range(height):
        for col in range(width):
            u, v = col / max(1, width - 1), row / max(1, height - 1)
            here = row * width + col
            for head in range(num_heads):
                for j in range(size // 2):
                    f = 10000 ** (-j / (size / 2))
                    first, second = head * size + j, head * size + size // 2 + j
                    t1, t2 = t[:, here, first], t[:, here, second]
                    out[:, here, first] = t1 * math.cos(u * f) - t2 * math.sin(u * f)
                    out[:, here, second] = t2 * math.cos(v * f) + t1 * math.sin(v * f)
    return out


def plain_fusion(name, m, x, g, num_heads):
    batch, height, width, dim = x.shape
    step = g.shape[2] // height
    pooled = torch.stack(
        [
            g[:, :, r * step : (r + 1) * step, c * step : (c + 1) * step].mean((2, 3))
            for r in range(height)
            for c in range(width)
        ],
        dim=1,
    )
    tokens = x.reshape(batch, -1, dim)
    if name == "cross":
        asked = m.norm_global(pooled)
        a = plain_attention(m.query_proj(m.norm_local(tokens)), m.key_proj(asked), m.value_proj(asked), num_heads)
        return (tokens + m.out_proj(a)).reshape(x.shape)
    if "posenc" in name:
        place = plain_position(height, width, dim)
        tokens, pooled = tokens + place, pooled + place
    q, k, v = m.q_proj(tokens), m.k_proj(pooled), m.v_proj(pooled)
    if name == "rope":
        q, k = plain_rotation(q, height, width, num_heads), plain_rotation(k, height, width, num_heads)
    a = plain_attention(q, k, v, num_heads)
    if "gated" in name:
        a = a * m.gate_proj(torch.cat([tokens, a], dim=-1)).sigmoid()
    return m.out_proj(tokens + a).reshape(x.shape)


@pytest.mark.parametrize("name", FUSIONS)
@pytest.mark.parametrize(("height", "width", "step"), [(3, 5, 2), (4, 2, 4), (1, 1, 2), (1, 4, 1)])
def test_cross_attention(name, height, width, step, filled):
    """Coordinates are float32 in the kit, hence 1e-6 where positions enter."""
    module = filled(FUSIONS[name](12, 3)).double()
    x, g = randn(2, height, width, 12), randn(2, 12, step * height, step * width, seed=1)
    expected = plain_fusion(name, module, x, g, 3)
    tolerance = 1e-6 if name in ("posenc", "gated_posenc", "rope") else 1e-10
    torch.testing.assert_close(module(x, g), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", FUSIONS)
def test_cross_attention_asks_the_map(name, filled):
    """A token far from a change of the map sees it all the same: the context is global."""
    module = filled(FUSIONS[name](12, 3)).double()
    x, g = randn(1, 4, 4, 12), randn(1, 12, 8, 8, seed=1)
    elsewhere = g.clone()
    elsewhere[0, :, -1, -1] += 9 * randn(12, seed=2)
    assert (module(x, elsewhere) - module(x, g))[0, 0, 0].abs().max() > 1e-4


def test_position_encoding_by_hand():
    """Two rows, three columns, four channels: ω = 1 and 1/100."""
    place = position_encoding(2, 3, 4, torch.zeros(1))
    assert place.shape == (6, 4)
    expected = [math.sin(0.5), math.cos(1), math.sin(0.005), math.cos(0.01)]  # row 1, column 1: u = 1/2, v = 1
    assert place[4].tolist() == pytest.approx(expected, abs=1e-6)
    assert place[0].tolist() == [0, 1, 0, 1]


# Up-sampling and head


@pytest.mark.parametrize(("factor", "out"), [(2, 4), (2, 8), (4, 8)])
@pytest.mark.parametrize("smooth_bias", [True, False])
def test_dual_upsample_is_the_published_form(factor, out, smooth_bias, filled):
    """Both paths at full size, concatenated, then projected."""
    up = filled(DualUpsample(8, out, factor, smooth_bias)).double()
    x = randn(2, 8, 3, 5)
    both = torch.cat([up.up_p(x), up.up_b(x)], dim=1)
    assert both.shape == (2, 2 * out, 3 * factor, 5 * factor)
    close(up(x), up.conv(both))
    assert (up.up_b[0].bias is not None) == smooth_bias
    others = [m for m in up.modules() if isinstance(m, nn.Conv2d) and m is not up.up_b[0]]
    assert all(m.bias is None for m in others)


def test_dual_upsample_layers():
    """Kernels of the two published forms: ×2 to half the channels, ×4 to the same."""
    halve, keep = DualUpsample(8, 4), DualUpsample(8, 8, 4)
    shapes = [[tuple(p.shape[:2]) for p in up.parameters() if p.ndim == 4] for up in (halve, keep)]
    assert shapes[0] == [(16, 8), (4, 4), (8, 8), (4, 8), (4, 8)]
    assert shapes[1] == [(128, 8), (8, 8), (8, 8), (8, 8), (8, 16)]


def test_denoising_head(filled):
    head = filled(DenoisingHead(8, 2, 4, 2, None, [0.0, 0.0])).double()
    x = randn(2, 5, 6, 8)
    m = x
    for j, block in enumerate(head.block.blocks):
        m = plain_swin_block(block, m, 2, 4, 2 * j, 0.5)
    m = m.permute(0, 3, 1, 2)
    channel, spatial = head.se_block.cSE, head.se_block.sSE
    c = channel.fc2(channel.fc1(m.mean((2, 3))).clamp(min=0)).sigmoid()[..., None, None]
    s = (torch.einsum("bdhw,d->bhw", m, spatial.conv.weight[0, :, 0, 0]) + spatial.conv.bias).sigmoid()[:, None]
    assert channel.fc1.out_features == 4
    m = torch.where(m * c > m * s, m * c, m * s)
    seen = torch.stack([m.mean(1), m.max(1).values], dim=1)
    m = m * F.conv2d(F.pad(seen, (3, 3, 3, 3)), head.spatial_attn.conv.weight).sigmoid()
    close(head(x), m.permute(0, 2, 3, 1))
