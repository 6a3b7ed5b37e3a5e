"""Optimised forms, part by part, against formulas: slow, with every matrix in memory. test_switch.py has the whole."""

import math

import pytest
import torch
import torch.nn.functional as F
from by_hand import close, randn

from glowlib.networks.fast import windows
from glowlib.networks.fast.attention import attention
from glowlib.networks.fast.context import chain_coefficients, downsample_product
from glowlib.networks.fast.linear import fusable, linear_add, linear_gelu, linear_prelu
from glowlib.networks.fast.windows import Permute, padded_window_order, permutation
from glowlib.networks.global_context import ContextDownsample, GlobalContextChain
from glowlib.networks.linear import Linear
from glowlib.networks.swin import SwinBlock
from glowlib.networks.windows import window_mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_linear_layers(dtype):
    """Without a gradient the fused kernels compute what PyTorch's own layers do."""
    layer, x, other = Linear(24, 40).to(dtype), randn(2, 7, 24).to(dtype), randn(2, 7, 40, seed=1).to(dtype)
    prelu = torch.nn.PReLU(init=-0.4).to(dtype)
    expected = [layer(x), F.gelu(layer(x)), layer(x) + other, prelu(layer(x))]
    assert all(y.requires_grad for y in expected)
    with torch.no_grad():
        found = [layer(x), linear_gelu(x, layer), linear_add(x, layer, other)]
        found.append(linear_prelu(x, layer.weight, layer.bias, prelu))
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 0.03}[dtype]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("gradient", [True, False])
@pytest.mark.parametrize(("tokens", "dtype"), [(300, torch.float32), (9, torch.bfloat16), (300, torch.bfloat16)])
def test_attention_by_hand(tokens, dtype, gradient):
    """Heads of 12 channels are padded to 16 where that is faster, and the default scale stays that of 12."""
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
    rounded = [t.bfloat16().requires_grad_() for t in given]
    exact = [t.detach().double().requires_grad_() for t in rounded]
    q, k, v, bias = exact
    expected = (0.3 * q @ k.mT + bias).softmax(-1) @ v
    found = attention(*rounded, scale=0.3)
    assert found.dtype == torch.bfloat16
    weight = randn(*expected.shape, seed=4)
    (expected * weight).sum().backward()
    (found.double() * weight).sum().backward()
    for a, b in ((found, expected), *((x.grad, y.grad) for x, y in zip(rounded, exact, strict=True))):
        assert (a.double() - b).norm() < 0.02 * b.norm()


@pytest.mark.parametrize("shift", [0, 2])
def test_padding_is_never_attended_to(shift, filled, monkeypatch):
    """Whichever tokens stand in for the padding of windows, no result changes; and the tokens are in their places."""
    block = filled(SwinBlock(12, 3, 4, shift, 8)).double()
    x = randn(2, 6, 9, 12)
    base = block(x)
    order, mask, (gather, scatter) = windows.window_order(6, 9, 4, shift, x.device)
    assert sorted(order.tolist()) == list(range(54))
    assert torch.equal(gather[scatter], torch.arange(54))
    assert len(gather) == 8 * 12
    other = torch.full_like(gather, 17)
    other[scatter] = torch.arange(54)
    assert not torch.equal(other, gather)
    monkeypatch.setattr(windows, "window_order", lambda *_: (order, mask, (other, scatter)))
    close(block(x), base)
    other[scatter] = torch.arange(54).flip(0)
    assert (block(x) - base).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("height", "width", "window", "shift"), [(8, 8, 4, 0), (8, 8, 4, 2), (7, 10, 4, 2), (3, 9, 4, 0)]
)
def test_windows_that_need_a_mask_come_last(height, width, window, shift):
    """The order is that of the windows of the rolled grid, but for theirs; each mask is its window's."""
    cpu = torch.device("cpu")
    order, mask = padded_window_order(height, width, window, shift)
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


def test_permutation_and_its_gradient():
    index, inverse = permutation(5, 8, 4, 0, 2, torch.device("cpu"))
    x = randn(2, 40, 3).requires_grad_()
    assert torch.equal(Permute.apply(x, index, inverse), x[:, index])
    assert torch.equal(Permute.apply(Permute.apply(x, index, inverse), inverse, index), x)
    assert torch.autograd.gradcheck(lambda x: Permute.apply(x, index, inverse), x)


@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_coefficients_of_a_product(pooling, filled):
    """The context of basis @ x, from x: the product is not materialised."""
    blocks = filled(GlobalContextChain(3, 8, 0.5, pooling, ("mul", "add"))).double()
    x, basis = randn(2, 5, 6, 7), randn(8, 5, seed=1)
    expected = chain_coefficients(blocks, torch.einsum("dn,bnhw->bdhw", basis, x))
    for a, b in zip(chain_coefficients(blocks, x, basis), expected, strict=True):
        close(a, b)


def test_downsample_of_a_product(filled):
    """With and without a gradient, and where the zeros around the feature map meet its constant."""
    down = filled(ContextDownsample(8)).double().eval()
    x, matrix = randn(2, 5, 6, 8), randn(2, 8, 5, seed=1)
    expected = down(torch.einsum("bdn,bnhw->bdhw", matrix, x))
    close(downsample_product(down, matrix, x), expected)
    with torch.no_grad():
        close(downsample_product(down, matrix, x), expected.detach())


@pytest.mark.parametrize(("supported", "fused"), [(False, {torch.float32}), (True, {torch.float32, torch.bfloat16})])
def test_bfloat16_is_fused_only_where_onednn_supports_it(supported, fused, monkeypatch):
    """oneDNN has no bfloat16 matrix product for processors without AVX-512."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    with torch.no_grad():
        found = {kind for kind in (torch.float32, torch.bfloat16) if fusable(*(torch.ones(2, 2, dtype=kind),) * 2)}
    assert found == fused
