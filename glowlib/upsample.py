"""Dual up-sample: pixel shuffle and bilinear interpolation side by side (SUNet, https://arxiv.org/abs/2202.14009)."""

import torch.nn.functional as F
from torch import nn


class DualUpsample(nn.Module):
    """Feature map (batch, d, H, W) -> (batch, out_dim, factor·H, factor·W).

    The published form concatenates both paths and projects them. A 1×1 convolution
    commutes with bilinear interpolation, so here the smooth path is projected before it is
    enlarged, and the sum takes the place of the concatenation: the same function, fewer operations.
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

    def forward(self, x):
        expand, bend, shuffle, mix = self.up_p
        widen, bend_smooth, enlarge, narrow = self.up_b
        keep_sharp, keep_smooth = self.conv.weight.chunk(2, dim=1)
        sharp = F.conv2d(mix(shuffle(bend(expand(x)))), keep_sharp)
        smooth = enlarge(F.conv2d(narrow(bend_smooth(widen(x))), keep_smooth))
        return sharp + smooth
