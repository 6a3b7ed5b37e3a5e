"""GLOWNet: patches and global context side by side, joined by cross-attention.

Patch-based Neural Networks with Global Context Integration. A context branch runs beside SUNet, stage by stage; its
feature map is always p times finer per side than the tokens.
"""

import torch
from torch import nn

from .config import ModelConfig
from .cross_attention import build_cross_attention
from .global_context import ContextDownsample, MapNorm, build_context_chain
from .sunet import DecoderStage, EncoderStage, TokenUNet
from .upsample import DualUpsample


def context_upsample(dim: int) -> DualUpsample:
    """The up-sample of the context branch, (batch, d, H, W) -> (batch, d/2, 2H, 2W); it has no bias at all."""
    return DualUpsample(dim, dim // 2, bilinear_bias=False)


class ParallelEncoderStage(EncoderStage):
    """Both branches one stage down, then tokens attend to the feature map."""

    def __init__(self, config: ModelConfig, i: int):
        super().__init__(config, i)
        dim = config.embed_dim * 2**i
        self.context_blocks = build_context_chain(config, max(1, config.depths[i] // 3), dim)
        self.gc_downsample = ContextDownsample(dim) if i < 3 else nn.Identity()
        self.cross_attention = build_cross_attention(config, i, 2 * dim if i < 3 else dim)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        g = self.gc_downsample(self.context_blocks(g))
        return self.cross_attention(super().forward(x), g), g


class ParallelDecoderStage(DecoderStage):
    """Both branches one stage up, then tokens attend to the feature map. Stage k mirrors encoder stage 3 - k."""

    def __init__(self, config: ModelConfig, k: int):
        super().__init__(config, k)
        i = 3 - k
        dim = config.embed_dim * 2**i
        self.context_blocks = build_context_chain(config, max(1, config.depths[i] // 3), dim)
        self.context_upsample = context_upsample(dim) if k < 3 else nn.Identity()
        self.cross_attention = build_cross_attention(config, i, dim // 2 if k < 3 else dim)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        g = self.context_upsample(self.context_blocks(g))
        return self.cross_attention(super().forward(x), g), g


class GLOWNet(TokenUNet):
    name = "glownet"

    def __init__(self, config: ModelConfig):
        super().__init__(config, ParallelEncoderStage, ParallelDecoderStage)
        dim = config.embed_dim
        self.gc_conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.gc_norm = MapNorm(8 * dim)
        self.gc_up = context_upsample(8 * dim)
        self.gc_concat_back_dim = nn.ModuleList([nn.Identity()])  # index 0 is a placeholder, as in concat_back_dim
        self.gc_concat_back_dim.extend(nn.Conv2d(2 * d, d, 3, padding=1) for d in (4 * dim, 2 * dim, dim))
        self.initialise()

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        x = self.embed(image)  # tokens (batch, H/p, W/p, C)
        g = self.gc_conv_first(self.to_inner(image))  # feature map (batch, C, H, W)
        skips, context_skips = [], []
        for stage in self.layers:
            skips.append(x)
            context_skips.append(g)
            x, g = stage(x, g)
        x, g = self.bottleneck(self.norm(x)), self.gc_norm(g)
        x, g = self.layers_up[0](x), self.gc_up(g)
        for k in (1, 2, 3):
            x = self.join_skip(k, x, skips)
            g = self.gc_concat_back_dim[k](torch.cat([g, context_skips[3 - k]], dim=1))
            x, g = self.layers_up[k](x, g)
        return self.to_image(x)  # (batch, 3, H, W)
