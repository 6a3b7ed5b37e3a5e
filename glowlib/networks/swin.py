"""Windows: patch embedding, window attention, Swin blocks, patch merging.

Swin Transformer, https://arxiv.org/abs/2103.14030, as SUNet uses it,
https://arxiv.org/abs/2202.14009. Token grids are (batch, height, width, channels).
"""

from functools import lru_cache

import numpy as np
import torch
from einops import rearrange
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import nn

from .fast.attention import attention
from .fast.linear import Linear, linear_add, linear_gelu

# Kept tensors serve training too, even if validation asked first.
kept = torch.inference_mode(False)


@lru_cache(maxsize=64)
@kept
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


@lru_cache(maxsize=64)
@kept
def windows_of(height, width, window, shift):
    """The tokens of a grid, padded to whole windows, in the order of its windows, shifted by `shift`; on the CPU.

    Returns their row-major indices, (tokens,), and the mask of the last windows, (m, window², window²), or
    None: windows that need no mask come first, and share what all of them add to their logits.
    """
    padded_h, padded_w = height + -height % window, width + -width % window
    index = torch.arange(padded_h * padded_w).view(padded_h, padded_w).roll((-shift, -shift), (0, 1))
    index = rearrange(index, "(i a) (j b) -> (i j) (a b)", a=window, b=window)
    mask = window_mask(height, width, window, shift, torch.device("cpu"))
    if mask is None:
        return index.flatten(), None
    needed = mask.flatten(1).any(1)
    return torch.cat([index[~needed], index[needed]]).flatten(), mask[needed]


@lru_cache(maxsize=64)
@kept
def real_tokens(height, width, window, shift, device):
    """The tokens of a grid without its padding, in the order of its windows, and how they fill the windows.

    Returns their row-major indices, (height·width,); the mask of the last windows, as `windows_of`; and None, or, where
    windows have gaps, two tensors of indices: the token at each place of the windows, in a gap any, which the mask
    keeps out, and the place of each token.
    """
    index, mask = windows_of(height, width, window, shift)
    mask = None if mask is None else mask.to(device)
    padded_w = width + -width % window
    row, column = index // padded_w, index % padded_w
    real = (row < height) & (column < width)
    order = (row * width + column)[real].to(device)
    if real.all():
        return order, mask, None
    return order, mask, ((real.cumsum(0) - 1).clamp(min=0).to(device), real.nonzero()[:, 0].to(device))


@lru_cache(maxsize=64)
@kept
def regroup(height, width, window, before, after, device):
    """How tokens get from one order to another: (their indices, the indices of the way back).

    before, after: the shift of the windows that the tokens are ordered by, None for row by row.
    """
    cpu = torch.device("cpu")
    old, new = (
        torch.arange(height * width) if shift is None else real_tokens(height, width, window, shift, cpu)[0]
        for shift in (before, after)
    )
    there = old.argsort()[new]
    return there.to(device), there.argsort().to(device)


class Reorder(torch.autograd.Function):
    """x[:, there] for a permutation: its gradient is gathered by the way back, where PyTorch would scatter it."""

    @staticmethod
    def forward(ctx, x, there, back):
        ctx.save_for_backward(there, back)
        return x.index_select(1, there)

    @staticmethod
    def backward(ctx, gradient):
        there, back = ctx.saved_tensors
        return Reorder.apply(gradient, back, there), None, None


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a relative position bias.

    `scale` multiplies the queries; None means head_dim^-0.5. timm's module ignores a
    custom scale once its kernel is fused, hence this one.
    """

    def __init__(self, dim, window, num_heads, scale=None):
        super().__init__()
        self.num_heads, self.tokens = num_heads, window**2
        self.scale = (dim // num_heads) ** -0.5 if scale is None else scale
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("bias_index", apart[0] * (2 * window - 1) + apart[1], persistent=False)
        self.qkv = Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask=None, gaps=None):
        """(batch, tokens, dim) in the order of windows; a mask (m, window², window²) of the last m windows, or None.

        gaps: how tokens fill windows that have some (see `real_tokens`). Returns what the windows attended to,
        before the output projection, in the shape of x.
        """
        qkv = self.qkv(x)
        if gaps is not None:
            qkv = qkv.index_select(1, gaps[0])
        qkv = rearrange(qkv, "b (n t) (qkv d) -> qkv b n t d", t=self.tokens, qkv=3)
        bias = self.relative_position_bias_table.T[:, self.bias_index][None]  # (1, heads, tokens, tokens)
        if mask is None:
            return self.attend(qkv, bias)
        free = qkv.shape[2] - len(mask)
        batched = (bias + mask[:, None]).expand(len(x), -1, -1, -1, -1).flatten(0, 1)
        attended = self.attend(qkv[:, :, free:], batched)
        if free:
            attended = torch.cat([self.attend(qkv[:, :, :free], bias), attended], dim=1)
        return attended if gaps is None else attended.index_select(1, gaps[1])

    def attend(self, qkv, bias):
        batch = qkv.shape[1]
        q, k, v = rearrange(qkv, "three b n t (heads d) -> three (b n) heads t d", heads=self.num_heads).unbind(0)
        return rearrange(attention(q, k, v, bias, self.scale), "(b n) heads t d -> b (n t) (heads d)", b=batch)


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
        return through_blocks([self], x)

    def in_windows(self, x, mask, gaps):
        """(batch, tokens, dim) in the order of windows -> the same; mask, gaps: those of `WindowAttention`."""
        x = self.add(x, self.attn(self.norm1(x), mask, gaps), self.attn.proj)
        return self.add(x, linear_gelu(self.norm2(x), self.mlp.fc1), self.mlp.fc2)

    def add(self, x, branch, last):
        """x plus what the branch's last layer makes of it, or plus nothing where stochastic depth drops it."""
        if self.training:
            return x + self.drop_path(last(branch))
        return linear_add(branch, last, x)


def through_blocks(blocks, x):
    """Token grid (batch, height, width, dim) through Swin blocks of one window size -> the same shape.

    All but attention treats each token alone. So tokens stay in the order of windows from block to block,
    and move once between two blocks; and what pads a grid to whole windows is there for attention only.
    """
    _, height, width, _ = shape = x.shape
    window = blocks[0].window
    x = x.flatten(1, 2)
    order = None  # row by row
    for block in blocks:
        if block.shift != order:
            x = Reorder.apply(x, *regroup(height, width, window, order, block.shift, x.device))
            order = block.shift
        _, mask, gaps = real_tokens(height, width, window, order, x.device)
        x = block.in_windows(x, mask, gaps)
    return Reorder.apply(x, *regroup(height, width, window, order, None, x.device)).view(shape)


class SwinBlocks(nn.Sequential):
    """Swin blocks, one after the other: token grid (batch, height, width, dim) -> the same shape."""

    def forward(self, x):
        return through_blocks(self, x)


def swin_blocks(dim, num_heads, window, shift, scale, drop_paths):
    """One block for each rate in `drop_paths`; every second one shifts by `shift`."""
    return SwinBlocks(
        *(SwinBlock(dim, num_heads, window, shift * (j % 2), scale, rate) for j, rate in enumerate(drop_paths))
    )


def stage_options(config, i):
    """Arguments of `swin_blocks` for encoder stage i: width, heads, window, shift, scale, drop-path rates."""
    grid = config.training_size // (config.patch_size * 2**i)
    window = min(config.window_size, grid)
    shift = window // 2 if grid > window else 0
    first, blocks = sum(config.depths[:i]), sum(config.depths)
    rates = np.linspace(0, config.drop_path_rate, blocks)[first : first + config.depths[i]].tolist()
    return config.embed_dim * 2**i, config.num_heads[i], window, shift, config.qk_scale, rates


def build_swin_blocks(config, i):
    """The Swin blocks of encoder stage i as a `ModelConfig` describes them."""
    return swin_blocks(*stage_options(config, i))


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
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        # Column before row: the order the published weights know.
        x = rearrange(x, "b (h row) (w col) d -> b h w (col row d)", row=2, col=2)
        return self.reduction(self.norm(x))
