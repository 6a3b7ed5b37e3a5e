"""Patch embedding in one convolution: two with nothing between them are one, of p + 2 pixels a side at stride p."""

import torch
import torch.nn.functional as F
from einops import rearrange


def embed(conv_first, patch_embed, image: torch.Tensor) -> torch.Tensor:
    """patch_embed(conv_first(image)): (batch, 3, H, W) -> tokens (batch, H/p, W/p, C)."""
    proj = patch_embed.proj
    kernel = F.conv_transpose2d(proj.weight, conv_first.weight)
    bias = proj.bias + proj.weight.sum((2, 3)) @ conv_first.bias
    x = F.conv2d(image, kernel, bias, proj.stride, conv_first.padding)
    return patch_embed.norm(rearrange(x, "b d h w -> b h w d"))
