"""Cross-attention against plain references: written from the formulas, slow, with every attention matrix in memory."""

import math

import pytest
import torch
from by_hand import randn

from glowlib.networks.cross_attention import FUSIONS, attend, position_encoding

pytestmark = pytest.mark.usefixtures("form")


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
        context = m.norm_global(pooled)
        a = plain_attention(m.query_proj(m.norm_local(tokens)), m.key_proj(context), m.value_proj(context), num_heads)
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
def test_every_token_attends_to_the_whole_feature_map(name, filled):
    """A change of the feature map reaches a token far from it: the context is global."""
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


@pytest.mark.parametrize(("height", "width", "reach"), [(6, 6, 3), (5, 7, 3), (1, 5, 2), (4, 4, 1)])
def test_attention_confined_to_windows(height, width, reach):
    """Token by token: attention over those of the same window, and none over padding."""
    q, k, v = (randn(2, height * width, 8, seed=i) for i in range(3))
    found = attend(q, k, v, 2, (height, width), reach)
    index = torch.arange(height * width)
    window = index // width // reach * width + index % width // reach
    for token in range(height * width):
        same = window == window[token]
        expected = plain_attention(q[:, token : token + 1], k[:, same], v[:, same], 2)
        torch.testing.assert_close(found[:, token : token + 1], expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(attend(q, k, v, 2, (height, width), max(height, width)), attend(q, k, v, 2, (height, width)))
