"""The denoising head: a Swin stage, then squeeze-excitation and spatial attention, at the bottleneck."""

import torch
from einops import rearrange, reduce
from torch import nn

from .swin import stage_options, swin_blocks


class ChannelSqueeze(nn.Module):
    """A gate for each channel, from the spatial mean: (batch, d, H, W) -> (batch, d, 1, 1) in (0, 1)."""

    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, dim // 2)
        self.fc2 = nn.Linear(dim // 2, dim)

    def forward(self, x):
        gate = self.fc2(self.fc1(reduce(x, "b d h w -> b d", "mean")).relu()).sigmoid()
        return rearrange(gate, "b d -> b d 1 1")


class SpatialSqueeze(nn.Module):
    """A gate for each position, from the channels: (batch, d, H, W) -> (batch, 1, H, W) in (0, 1)."""

    def __init__(self, dim):
        super().__init__()
        self.conv = nn.Conv2d(dim, 1, 1)

    def forward(self, x):
        return self.conv(x).sigmoid()


class ConcurrentSqueeze(nn.Module):
    """Concurrent spatial and channel squeeze-excitation, https://arxiv.org/abs/1803.02579, joined by max."""

    def __init__(self, dim):
        super().__init__()
        self.cSE = ChannelSqueeze(dim)
        self.sSE = SpatialSqueeze(dim)

    def forward(self, x):
        return torch.maximum(x * self.cSE(x), x * self.sSE(x))


class SpatialAttention(nn.Module):
    """x · sigmoid(conv of [channel mean, channel max]) (CBAM, https://arxiv.org/abs/1807.06521, section 3)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x):
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)
        return x * self.conv(seen).sigmoid()


class SwinStage(nn.Module):
    """Swin blocks under the name the published checkpoints give them."""

    def __init__(self, *args):
        super().__init__()
        self.blocks = swin_blocks(*args)

    def forward(self, x):
        return self.blocks(x)


class DenoisingHead(nn.Module):
    """Token grid (batch, h, w, d) -> the same shape. No residual."""

    def __init__(self, dim, *swin_args):
        super().__init__()
        self.block = SwinStage(dim, *swin_args)
        self.se_block = ConcurrentSqueeze(dim)
        self.spatial_attn = SpatialAttention()

    def forward(self, x):
        x = rearrange(self.block(x), "b h w d -> b d h w")
        return rearrange(self.spatial_attn(self.se_block(x)), "b d h w -> b h w d")


def build_denoising_head(config):
    """The head at the bottleneck, or nothing, as a `ModelConfig` says."""
    return DenoisingHead(*stage_options(config, 3)) if config.denoising_head else nn.Identity()
