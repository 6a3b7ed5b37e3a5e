"""A Swin stage whose tokens stay in window order from block to block.

Everything in a Swin block but attention treats each token alone. So one gather between two blocks replaces two rolls
and two partitions, tokens that only pad a grid to whole windows exist in attention alone, and only windows that need
a mask get one.
"""

from functools import lru_cache

import torch
from einops import rearrange

from ..windows import window_mask
from .attention import attention
from .linear import linear, linear_add, linear_gelu
from .recompute import run

# Cached tensors serve training too, even if validation, in inference mode, was the first to need them.
outside_inference_mode = torch.inference_mode(False)
CPU = torch.device("cpu")


@lru_cache(maxsize=64)
@outside_inference_mode
def padded_window_order(height, width, window, shift):
    """Window order of the tokens of a grid that is padded to whole windows shifted by `shift`, on the CPU.

    Windows that need no mask come first: all of them share one bias.

    Returns:
        order: (tokens,), the row-major index, in the padded grid, of each token in window order.
        mask: (m, window², window²) of the last m windows, see `window_mask`; None if none needs one.
    """
    padded_h, padded_w = height + -height % window, width + -width % window
    index = torch.arange(padded_h * padded_w).view(padded_h, padded_w).roll((-shift, -shift), (0, 1))
    index = rearrange(index, "(i a) (j b) -> (i j) (a b)", a=window, b=window)
    mask = window_mask(height, width, window, shift, CPU)
    if mask is None:
        return index.flatten(), None
    needed = mask.flatten(1).any(1)
    return torch.cat([index[~needed], index[needed]]).flatten(), mask[needed]


@lru_cache(maxsize=64)
@outside_inference_mode
def window_order(height, width, window, shift, device):
    """Window order of the tokens of a grid without its padding.

    Returns:
        order: (height·width,), the row-major index of each token in window order.
        mask: as `padded_window_order` returns it.
        padding: None, or (gather, scatter) if the grid is padded: gather[p] is the token at position p of the windows
            (any token where p is padding: the mask excludes it), scatter[t] the position of token t.
    """
    index, mask = padded_window_order(height, width, window, shift)
    mask = None if mask is None else mask.to(device)
    padded_w = width + -width % window
    row, column = index // padded_w, index % padded_w
    real = (row < height) & (column < width)
    order = (row * width + column)[real].to(device)
    if real.all():
        return order, mask, None
    return order, mask, ((real.cumsum(0) - 1).clamp(min=0).to(device), real.nonzero()[:, 0].to(device))


@lru_cache(maxsize=64)
@outside_inference_mode
def permutation(height, width, window, before, after, device):
    """The permutation between two orders of a grid's tokens, and its inverse.

    before, after: the shift of the windows whose order it is; None for row-major order.
    """
    old, new = (
        torch.arange(height * width) if shift is None else window_order(height, width, window, shift, CPU)[0]
        for shift in (before, after)
    )
    index = old.argsort()[new]
    return index.to(device), index.argsort().to(device)


class Permute(torch.autograd.Function):
    """x[:, index]. The backward pass gathers with the inverse permutation: faster than autograd's scatter-add."""

    @staticmethod
    def forward(ctx, x, index, inverse):
        ctx.save_for_backward(index, inverse)
        return x.index_select(1, index)

    @staticmethod
    def backward(ctx, gradient):
        index, inverse = ctx.saved_tensors
        return Permute.apply(gradient, inverse, index), None, None


def permute(x, index, inverse):
    """x[:, index], with a fast gradient."""
    return Permute.apply(x, index, inverse) if torch.is_grad_enabled() else x.index_select(1, index)


def attend(attn, qkv, bias):
    """qkv (3, batch, windows, tokens, dim) and a bias that broadcasts -> (batch, windows · tokens, dim)."""
    batch = qkv.shape[1]
    q, k, v = rearrange(qkv, "three b n t (heads d) -> three (b n) heads t d", heads=attn.num_heads).unbind(0)
    return rearrange(attention(q, k, v, bias, attn.scale), "(b n) heads t d -> b (n t) (heads d)", b=batch)


def window_attention(attn, x, mask, padding):
    """(S)W-MSA of tokens (batch, tokens, dim) in window order, without its output projection; the same shape."""
    qkv = linear(x, attn.qkv.weight, attn.qkv.bias)
    if padding is not None:
        qkv = qkv.index_select(1, padding[0])
    qkv = rearrange(qkv, "b (n t) (three d) -> three b n t d", t=attn.window**2, three=3)
    # Indexed so that it lies contiguously in memory: (1, heads, tokens, tokens).
    bias = attn.relative_position_bias_table.T[:, attn.relative_position_index][None]
    if mask is None:
        return attend(attn, qkv, bias)
    free = qkv.shape[2] - len(mask)
    masked_bias = (bias + mask[:, None]).expand(x.shape[0], -1, -1, -1, -1).flatten(0, 1)
    attended = attend(attn, qkv[:, :, free:], masked_bias)
    if free:
        attended = torch.cat([attend(attn, qkv[:, :, :free], bias), attended], dim=1)
    return attended if padding is None else attended.index_select(1, padding[1])


def add(block, x, branch, last):
    """Residual connection with stochastic depth: x + drop_path(last(branch))."""
    if block.training:
        return x + block.drop_path(last(branch))
    return linear_add(branch, last, x)


def swin_block(block, x, mask, padding):
    """A Swin block on tokens (batch, tokens, dim) in window order; mask, padding: see `window_order`."""
    x = add(block, x, window_attention(block.attn, block.norm1(x), mask, padding), block.attn.proj)
    return add(block, x, linear_gelu(block.norm2(x), block.mlp.fc1), block.mlp.fc2)


def swin_stage(blocks, x: torch.Tensor) -> torch.Tensor:
    """Token grid (batch, height, width, dim) through Swin blocks of one window size -> the same shape."""
    _, height, width, _ = shape = x.shape
    window = blocks[0].attn.window
    x = x.flatten(1, 2)
    order = None  # row-major
    for block in blocks:
        shift = block.attn.shift
        if shift != order:
            x = permute(x, *permutation(height, width, window, order, shift, x.device))
            order = shift
        _, mask, padding = window_order(height, width, window, order, x.device)
        x = run(swin_block, block, x, mask, padding)
    return permute(x, *permutation(height, width, window, order, None, x.device)).view(shape)
