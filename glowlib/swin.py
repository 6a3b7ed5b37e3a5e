"""Windows: patch embedding, window attention, Swin blocks, patch merging.

Swin Transformer, https://arxiv.org/abs/2103.14030, as SUNet uses it,
https://arxiv.org/abs/2202.14009. Token grids are (batch, height, width, channels).
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import nn


@lru_cache(maxsize=64)
def window_mask(height, width, window, shift, device):
    """Additive attention mask of a token grid, (windows, window², window²), or None if all may attend.

    `height` and `width` are the grid before padding to multiples of `window`. Tokens
    that only the cyclic shift brought together get -100 (Swin, section 3.2), which is
    what the published weights were trained with. Padding gets -inf, because
    with the published scale of 8 a logit can outweigh -100; padded queries
    are left free, so that no row is empty.
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


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a relative position bias.

    `scale` multiplies the queries; None means head_dim^-0.5. timm's module ignores a
    custom scale once its kernel is fused, hence this one.
    """

    def __init__(self, dim, window, num_heads, scale=None):
        super().__init__()
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5 if scale is None else scale
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("bias_index", apart[0] * (2 * window - 1) + apart[1], persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask=None):
        """(batch, windows, tokens, dim) and an optional mask (windows, tokens, tokens) -> the same shape as x."""
        batch = len(x)
        bias = rearrange(self.relative_position_bias_table[self.bias_index], "q k heads -> 1 heads q k")
        if mask is None:
            # Windows join the batch and share one bias.
            split = "b n t (three heads d) -> three (b n) heads t d"
            join = "(b n) heads t d -> b n t (heads d)"
        else:
            # Windows join the heads, so that one mask serves the whole batch.
            split = "b n t (three heads d) -> three b (n heads) t d"
            join = "b (n heads) t d -> b n t (heads d)"
            bias = rearrange(bias + mask[:, None], "n heads q k -> 1 (n heads) q k")
        q, k, v = rearrange(self.qkv(x), split, three=3, heads=self.num_heads).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype), scale=self.scale)
        return self.proj(rearrange(x, join, b=batch, heads=self.num_heads))


class SwinBlock(nn.Module):
    """x + WMSA(LN x), then x + MLP(LN x); the windows are shifted by `shift` tokens."""

    def __init__(self, dim, num_heads, window, shift, scale=None, drop_path=0.0):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads, scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x):
        """(batch, height, width, dim) -> the same; any height and width."""
        x = x + self.drop_path(self.attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def attend(self, x):
        height, width = x.shape[1:3]
        window, shift = self.window, self.shift
        mask = window_mask(height, width, window, shift, x.device)
        if height % window or width % window:
            x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        rows = x.shape[1] // window
        x = rearrange(x, "b (i a) (j c) d -> b (i j) (a c) d", a=window, c=window)
        x = self.attn(x, mask)
        x = rearrange(x, "b (i j) (a c) d -> b (i a) (j c) d", i=rows, a=window)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]


def swin_blocks(dim, num_heads, window, shift, scale, drop_paths):
    """One block for each rate in `drop_paths`; every second one shifts by `shift`."""
    return nn.Sequential(
        *(SwinBlock(dim, num_heads, window, shift * (j % 2), scale, rate) for j, rate in enumerate(drop_paths))
    )


class PatchEmbed(nn.Module):
    """Feature map (batch, dim, H, W) -> token grid (batch, H/p, W/p, dim)."""

    def __init__(self, dim, patch_size):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x):
        return self.norm(rearrange(self.proj(x), "b d h w -> b h w d"))


class PatchMerging(nn.Module):
    """Token grid (batch, h, w, d) -> (batch, h/2, w/2, 2d): each 2×2 square becomes one token."""

    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        # Column before row: the order the published weights know.
        x = rearrange(x, "b (h row) (w col) d -> b h w (col row d)", row=2, col=2)
        return self.reduction(self.norm(x))
