"""Dual up-sample: pixel shuffle and bilinear interpolation side by side. SUNet, https://arxiv.org/abs/2202.14009."""

import torch
from torch import nn

from . import fast
from .base import full_precision


class DualUpsample(nn.Module):
    """Feature map (batch, dim, H, W) -> (batch, out_dim, factor·H, factor·W).

    Args:
        dim, out_dim: channels before and after.
        factor: 2 or 4.
        bilinear_bias: whether the first convolution of the bilinear path has a bias, as published for SUNet and GCUNet.
    """

    def __init__(self, dim: int, out_dim: int, factor: int = 2, bilinear_bias: bool = True):
        super().__init__()
        self.factor = factor
        self.up_p = nn.Sequential(
            nn.Conv2d(dim, out_dim * factor**2, 1, bias=False),
            nn.PReLU(),
            nn.PixelShuffle(factor),
            nn.Conv2d(out_dim, out_dim, 1, bias=False),
        )
        self.up_b = nn.Sequential(
            nn.Conv2d(dim, dim, 1, bias=bilinear_bias),
            nn.PReLU(),
            nn.Upsample(scale_factor=factor, mode="bilinear", align_corners=False),
            nn.Conv2d(dim, out_dim, 1, bias=False),
        )
        self.conv = nn.Conv2d(2 * out_dim, out_dim, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if fast.enabled():
            return fast.dual_upsample(self, x)
        return self.conv(torch.cat([self.up_p(x), self.up_b(x)], dim=1))


def upsample_to_image(up: DualUpsample, output: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """The output of every network: up-sample to pixels, then a 3×3 convolution.

    Args:
        up: up-sample by the patch size.
        output: 3×3 convolution without bias, C -> 3 channels.
        x: feature map (batch, C, H/p, W/p).

    Returns:
        Image (batch, 3, H, W), in the dtype of `output`.
    """
    with full_precision(x):
        x = x.to(output.weight.dtype)
        if fast.enabled():
            return fast.upsample_to_image(up, output, x)
        return output(up(x))
