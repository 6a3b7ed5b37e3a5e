"""Windows against plain references: written from the formulas, slow, with every attention matrix in memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from by_hand import close, plain_swin_block, randn

from glowlib.networks import swin
from glowlib.networks.swin import (
    PatchEmbed,
    PatchMerging,
    Reorder,
    SwinBlock,
    regroup,
    swin_blocks,
    window_mask,
    windows_of,
)


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
