"""Fused kernels against what they fuse: written from the formulas, slow, with every attention matrix in memory."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import randn

from glowlib.networks.fast.attention import attention
from glowlib.networks.fast.linear import Linear, linear_add, linear_gelu, linear_prelu


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
