"""The denoising head at the bottleneck: a Swin stage, squeeze-excitation, spatial attention.

Concurrent spatial and channel squeeze-excitation, https://arxiv.org/abs/1803.02579;
spatial attention as in CBAM, https://arxiv.org/abs/1807.06521.
"""

import torch
from einops import rearrange, reduce
from torch import nn

from .config import ModelConfig
from .swin import SwinStage, stage_options


class ChannelSqueeze(nn.Module):
    """A gate in (0, 1) for each channel, from the spatial mean: (batch, d, H, W) -> (batch, d, 1, 1)."""

    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.fc2(self.fc1(reduce(x, "b d h w -> b d", "mean")).relu()).sigmoid()
        return rearrange(gate, "b d -> b d 1 1")


class SpatialSqueeze(nn.Module):
    """A gate in (0, 1) for each position, from the channels: (batch, d, H, W) -> (batch, 1, H, W)."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv = nn.Conv2d(dim, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).sigmoid()


class ConcurrentSqueeze(nn.Module):
    """Both gates applied to x, (batch, d, H, W); the element-wise maximum of the two results."""

    def __init__(self, dim: int):
        super().__init__()
        self.cSE = ChannelSqueeze(dim)
        self.sSE = SpatialSqueeze(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.maximum(x * self.cSE(x), x * self.sSE(x))


class SpatialAttention(nn.Module):
    """x · sigmoid(7×7 convolution of [channel mean, channel max]) (CBAM, section 3)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.conv(pooled).sigmoid()


class DenoisingHead(nn.Module):
    """Token grid (batch, h, w, dim) -> the same shape. No residual. `options`: the other arguments of `SwinStage`."""

    def __init__(self, dim: int, *args, **options):
        super().__init__()
        self.block = nn.ModuleDict({"blocks": SwinStage(dim, *args, **options)})  # "block.blocks" in the checkpoints
        self.se_block = ConcurrentSqueeze(dim)
        self.spatial_attn = SpatialAttention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block["blocks"](x)
        x = rearrange(x, "b h w d -> b d h w")
        x = self.spatial_attn(self.se_block(x))
        return rearrange(x, "b d h w -> b h w d")


def build_denoising_head(config: ModelConfig) -> nn.Module:
    """The configured head, or the identity without `denoising_head`."""
    return DenoisingHead(**stage_options(config, 3)) if config.denoising_head else nn.Identity()
