"""Dual up-sample with its projections merged.

Behind the PReLUs everything is linear, and a 1×1 convolution commutes with pixel shuffle and with bilinear
interpolation. So each path's projections become one matrix, applied before pixels are moved, and a sum replaces the
concatenation.
"""

import torch
import torch.nn.functional as F
from einops import rearrange

from .linear import linear, linear_prelu
from .recompute import run


def dual_upsample(up, x: torch.Tensor, projection: torch.Tensor | None = None) -> torch.Tensor:
    """`DualUpsample` of a feature map (batch, d, H, W) -> (batch, out_dim, factor·H, factor·W).

    projection: optional matrix (k, out_dim) for the result's channels, merged with the others: (batch, k, …).
    """
    conv1, shuffle_prelu, _, conv2 = up.up_p
    bilinear_conv1, bilinear_prelu, upsample, bilinear_conv2 = up.up_b
    output_weight = up.conv.weight[..., 0, 0] if projection is None else projection @ up.conv.weight[..., 0, 0]
    shuffle_output, bilinear_output = output_weight.chunk(2, dim=1)
    x = rearrange(x, "b d h w -> b h w d")
    # Pixel shuffle, one row of each square of pixels at a time, with a pixel's channels side by side.
    row_weights = rearrange(conv1.weight, "(c i j) d 1 1 -> i (j c) d", i=up.factor, j=up.factor)
    shuffle_weight = shuffle_output @ conv2.weight[..., 0, 0]
    shuffled = [
        linear(linear_prelu(x, row, None, shuffle_prelu).unflatten(3, (up.factor, -1)), shuffle_weight)
        for row in row_weights
    ]
    shuffled = rearrange(shuffled, "i b h w j k -> b (h i) (w j) k")
    bilinear = linear_prelu(x, bilinear_conv1.weight[..., 0, 0], bilinear_conv1.bias, bilinear_prelu)
    bilinear = linear(bilinear, bilinear_output @ bilinear_conv2.weight[..., 0, 0])
    bilinear = upsample(rearrange(bilinear, "b h w k -> b k h w"))
    return rearrange(shuffled, "b h w k -> b k h w") + bilinear


def upsample_to_image(up, output, x: torch.Tensor) -> torch.Tensor:
    """output(up(x)), `output` a 3×3 convolution without bias, whose input is never materialised at full size.

    The up-sample yields each pixel's contributions to the nine pixels around it, which are then added up.
    """
    around = rearrange(output.weight.flip(2, 3), "o d i j -> (o i j) d")
    x = run(dual_upsample, up, x, around)
    return F.fold(x.flatten(2), x.shape[2:], 3, padding=1)
