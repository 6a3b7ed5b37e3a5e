"""Dual up-sample: pixel shuffle and bilinear interpolation side by side (SUNet, https://arxiv.org/abs/2202.14009)."""

import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .base import full_precision
from .fast.linear import linear, linear_prelu


class DualUpsample(nn.Module):
    """Feature map (batch, d, H, W) -> (batch, out_dim, factor·H, factor·W).

    The published form concatenates both paths and projects them. Behind the PReLUs everything is linear, and a 1×1
    convolution commutes with pixel shuffle and with bilinear interpolation: so each path's projections are
    merged into one, applied before pixels are moved, and a sum takes the place of the concatenation.
    """

    def __init__(self, dim, out_dim, factor=2, smooth_bias=True):
        super().__init__()
        self.factor = factor
        self.up_p = nn.Sequential(
            nn.Conv2d(dim, out_dim * factor**2, 1, bias=False),
            nn.PReLU(),
            nn.PixelShuffle(factor),
            nn.Conv2d(out_dim, out_dim, 1, bias=False),
        )
        self.up_b = nn.Sequential(
            nn.Conv2d(dim, dim, 1, bias=smooth_bias),
            nn.PReLU(),
            nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False),
            nn.Conv2d(dim, out_dim, 1, bias=False),
        )
        self.conv = nn.Conv2d(2 * out_dim, out_dim, 1, bias=False)

    def forward(self, x, then=None):
        """then: a matrix (k, out_dim) that is applied to the result's channels, merged with the projections."""
        expand, bend, shuffle, mix = self.up_p
        widen, bend_smooth, enlarge, narrow = self.up_b
        keep = self.conv.weight[..., 0, 0] if then is None else then @ self.conv.weight[..., 0, 0]
        keep_sharp, keep_smooth = keep.chunk(2, dim=1)
        x = rearrange(x, "b d h w -> b h w d")
        # One row of each square of pixels at a time; a pixel's channels lie side by side.
        rows = rearrange(expand.weight, "(c i j) d 1 1 -> i (j c) d", i=self.factor, j=self.factor)
        to_sharp = keep_sharp @ mix.weight[..., 0, 0]
        sharp = [linear(linear_prelu(x, row, None, bend).unflatten(3, (self.factor, -1)), to_sharp) for row in rows]
        sharp = rearrange(sharp, "i b h w j k -> b (h i) (w j) k")
        smooth = linear_prelu(x, widen.weight[..., 0, 0], widen.bias, bend_smooth)
        smooth = linear(smooth, keep_smooth @ narrow.weight[..., 0, 0])
        smooth = enlarge(rearrange(smooth, "b h w k -> b k h w"))
        return rearrange(sharp, "b h w k -> b k h w") + smooth


def enlarge_to_image(up, output, x):
    """output(up(x)), `output` a 3×3 convolution without bias, whose channels are never written at full size.

    The up-sample yields, for each pixel, its contributions to the nine pixels around; they are then added up.
    """
    around = rearrange(output.weight.flip(2, 3), "o d i j -> (o i j) d")
    with full_precision(x):
        x = up(x.to(around.dtype), around)
        return F.fold(x.flatten(2), x.shape[2:], 3, padding=1)
