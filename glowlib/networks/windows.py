"""Windows of a token grid. Swin Transformer, https://arxiv.org/abs/2103.14030, section 3.2.

Token grids are (batch, height, width, channels); windows (batch, windows, tokens of a window, channels).
"""

import torch
import torch.nn.functional as F
from einops import rearrange


def pad_to_windows(x: torch.Tensor, window: int) -> torch.Tensor:
    """Extend a token grid with zeros, at the right and bottom, to whole windows of side `window`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % window, 0, -height % window))


def partition(x: torch.Tensor, window: int) -> torch.Tensor:
    """Token grid of whole windows -> windows (batch, windows, window², channels), both in row-major order."""
    return rearrange(x, "b (i a) (j c) d -> b (i j) (a c) d", a=window, c=window)


def reverse(x: torch.Tensor, height: int, width: int, window: int) -> torch.Tensor:
    """Windows (batch, windows, window², channels) -> token grid, without the padding beyond height × width."""
    rows = -(-height // window)
    x = rearrange(x, "b (i j) (a c) d -> b (i a) (j c) d", i=rows, a=window)
    return x[:, :height, :width]


def window_mask(height: int, width: int, window: int, shift: int, device: torch.device) -> torch.Tensor | None:
    """Additive attention mask of the windows of a token grid.

    Tokens that only the cyclic shift brought together get -100, which the published weights were trained with.
    Padding gets -inf, because with the published scale of 8 a logit can outweigh -100; padded queries are left free,
    so that no row is empty.

    Args:
        height, width: the grid, in tokens, before it is padded to whole windows.
        window: side of a window, in tokens.
        shift: cyclic shift of the windows, in tokens, from 0 to below `window`.
        device: of the mask.

    Returns:
        (windows, window², window²), or None if no token needs a mask.
    """
    padded_h, padded_w = height + -height % window, width + -width % window
    if not shift and (padded_h, padded_w) == (height, width):
        return None

    def regions(length):
        index = torch.arange(length)
        if not shift:
            return torch.zeros_like(index)
        return (index >= length - window).long() + (index >= length - shift).long()

    region = 3 * regions(padded_h)[:, None] + regions(padded_w)[None, :]
    real = (torch.arange(padded_h) < height)[:, None] & (torch.arange(padded_w) < width)[None, :]
    real = real.roll((-shift, -shift), (0, 1))
    region, real = (rearrange(t, "(i a) (j b) -> (i j) (a b)", a=window, b=window) for t in (region, real))
    mask = torch.zeros(len(region), window**2, window**2)
    mask.masked_fill_(region[:, :, None] != region[:, None, :], -100.0)
    mask.masked_fill_(real[:, :, None] & ~real[:, None, :], -torch.inf)
    return mask.to(device)
