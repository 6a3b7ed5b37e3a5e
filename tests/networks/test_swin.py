"""Swin against plain references: written from the formulas, slow, with every attention matrix in memory."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import close, plain_swin_block, randn

from glowlib.networks import fast, swin
from glowlib.networks.swin import PatchEmbed, PatchMerging, SwinBlock, SwinStage

pytestmark = pytest.mark.usefixtures("form")


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


def test_logits_can_outweigh_the_mask(filled, monkeypatch):
    """The case behind -100 against -inf: large queries see across the shift's seam, as the published ones do."""
    block = filled(SwinBlock(12, 3, 4, 2, 8)).double()
    with torch.no_grad():
        block.attn.qkv.weight.mul_(4)
    x = randn(1, 7, 10, 12)
    expected = plain_swin_block(block, x, 3, 4, 2, 8)
    close(block(x), expected)
    mask = swin.window_mask(7, 10, 4, 2, x.device)
    mask[mask == -100] = -torch.inf
    for module in (swin, fast.windows):
        monkeypatch.setattr(module, "window_mask", lambda *_: mask)
    clear_orders()
    try:
        assert (block(x) - expected).abs().max() > 1e-3
    finally:
        clear_orders()


def clear_orders():
    for cached in (fast.windows.padded_window_order, fast.windows.window_order):
        cached.cache_clear()


def test_every_second_block_shifts():
    blocks = SwinStage(8, 2, 4, 2, None, [0.0, 0.1, 0.2])
    assert [block.attn.shift for block in blocks] == [0, 2, 0]
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
