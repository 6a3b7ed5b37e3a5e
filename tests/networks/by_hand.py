"""What the tests of the networks share: random input, close comparison, a Swin block by definition."""

import math

import numpy as np
import torch


def randn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def plain_swin_block(block, x, num_heads, window, shift, scale):
    """A Swin block by the definition: all tokens of the grid at once, and no padding to attend to.

    Token (r, c) lies, after the cyclic shift of the padded grid, at ((r - shift) mod H, (c - shift) mod W).
    Tokens of one window attend to each other; between a token that the shift wrapped around the edge and one
    that it did not, the logit is reduced by 100.
    """
    batch, height, width, dim = x.shape
    padded_h, padded_w = math.ceil(height / window) * window, math.ceil(width / window) * window
    r, c = (t.flatten() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    row, col = (r - shift) % padded_h, (c - shift) % padded_w
    same_window = (row // window)[:, None] == (row // window)
    same_window &= (col // window)[:, None] == (col // window)
    wrapped = ((r < shift)[:, None] != (r < shift)) | ((c < shift)[:, None] != (c < shift))
    down, right = row[:, None] - row + window - 1, col[:, None] - col + window - 1
    table = block.attn.relative_position_bias_table
    index = (down * (2 * window - 1) + right).where(same_window, 0)

    tokens = x.reshape(batch, height * width, dim)
    q, k, v = block.attn.qkv(block.norm1(tokens)).reshape(batch, -1, 3, num_heads, dim // num_heads).unbind(2)
    logits = scale * torch.einsum("bqhd,bkhd->bhqk", q, k) + table[index].permute(2, 0, 1) - 100.0 * wrapped
    attention = logits.masked_fill(~same_window, -torch.inf).softmax(-1)
    out = torch.einsum("bhqk,bkhd->bqhd", attention, v).reshape(batch, -1, dim)
    tokens = tokens + block.attn.proj(out)
    hidden = block.mlp.fc1(block.norm2(tokens))
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return (tokens + block.mlp.fc2(hidden)).reshape(x.shape)
