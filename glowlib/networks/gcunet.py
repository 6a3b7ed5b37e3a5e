"""GCUNet: global context blocks in a U-Net. Context only: the paper's baseline.

Its blocks are those of GCNet, https://arxiv.org/abs/1904.11492.
"""

import torch
from einops import rearrange
from torch import nn

from .base import Denoiser
from .config import ModelConfig
from .denoising_head import build_denoising_head
from .global_context import ContextDownsample, MapNorm, build_context_chain
from .upsample import DualUpsample, upsample_to_image


class ContextEncoderStage(nn.Module):
    """Global context blocks, then down-sampling unless this is the deepest stage, i = 3."""

    def __init__(self, config: ModelConfig, i: int):
        super().__init__()
        dim = config.embed_dim * 2**i
        downsample = ContextDownsample(dim) if i < 3 else nn.Identity()  # built first: seeds keep their initial weights
        self.blocks = build_context_chain(config, config.depths[i], dim)
        self.downsample = downsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.downsample(self.blocks(x))


class ContextDecoderStage(nn.Module):
    """Decoder stage k mirrors encoder stage 3 - k: its global context blocks, then up-sampling unless k = 3."""

    def __init__(self, config: ModelConfig, k: int):
        super().__init__()
        i = 3 - k
        dim = config.embed_dim * 2**i
        upsample = DualUpsample(dim, dim // 2) if k < 3 else nn.Identity()  # built first, as above
        self.blocks = build_context_chain(config, config.depths[i], dim)
        self.upsample = upsample

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upsample(self.blocks(x))


class GCUNet(Denoiser):
    """Options that describe windows or cross-attention have no effect, but for those of the denoising head."""

    name = "gcunet"

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        dim = config.embed_dim
        self.conv_first = nn.Sequential(
            nn.Conv2d(3, dim, 3, stride=2, padding=1),
            MapNorm(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim, 3, stride=config.patch_size // 2, padding=1),
            MapNorm(dim),
            nn.ReLU(inplace=True),
        )
        self.layers = nn.ModuleList(ContextEncoderStage(config, i) for i in range(4))
        self.norm = MapNorm(8 * dim)
        self.bottleneck = build_denoising_head(config)
        self.layers_up = nn.ModuleList(ContextDecoderStage(config, k) for k in range(4))
        # Index 0 is a placeholder: the published names count from 1.
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        self.concat_back_dim.extend(nn.Conv2d(2 * d, d, 1) for d in (4 * dim, 2 * dim, dim))
        self.norm_up = MapNorm(dim)
        self.up = DualUpsample(dim, dim, config.patch_size)
        self.output = nn.Conv2d(dim, 3, 3, padding=1, bias=False)
        self.initialise()

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        x = self.to_inner(self.conv_first(image))  # (batch, C, H/p, W/p)
        skips = []
        for stage in self.layers:  # stage i: (H/p)/2^i pixels a side, C·2^i channels
            skips.append(x)
            x = stage(x)
        x = self.norm(x)  # (batch, 8C, H/8p, W/8p)
        if self.config.denoising_head:
            x = rearrange(self.bottleneck(rearrange(x, "b d h w -> b h w d")), "b h w d -> b d h w")
        x = self.layers_up[0](x)
        for k in (1, 2, 3):
            x = self.concat_back_dim[k](torch.cat([x, skips[3 - k]], dim=1))
            x = self.layers_up[k](x)
        return upsample_to_image(self.up, self.output, self.norm_up(x))  # (batch, 3, H, W)
