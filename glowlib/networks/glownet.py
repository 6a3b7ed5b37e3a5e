"""GLOWNet: patches and global context in parallel, joined by cross-attention.

A context branch runs beside SUNet, stage by stage. Its map is always p times finer a side than the tokens.
"""

import torch
from torch import nn

from .cross_attention import build_cross_attention
from .global_context import ContextDownsample, MapNorm, build_context, context_chain
from .sunet import DecoderStage, EncoderStage, TokenUNet
from .upsample import DualUpsample


def map_upsample(dim):
    """The context branch's up-sample, which has no bias at all."""
    return DualUpsample(dim, dim // 2, smooth_bias=False)


class ParallelEncoderStage(EncoderStage):
    """Both branches one stage down, then tokens ask the map."""

    def __init__(self, config, i):
        super().__init__(config, i)
        dim = config.embed_dim * 2**i
        self.context_blocks = build_context(config, max(1, config.depths[i] // 3), dim)
        self.gc_downsample = ContextDownsample(dim) if i < 3 else nn.Identity()
        self.cross_attention = build_cross_attention(config, i, 2 * dim if i < 3 else dim)

    def forward(self, x, g):
        g = self.gc_downsample(context_chain(self.context_blocks, g))
        return self.cross_attention(super().forward(x), g), g


class ParallelDecoderStage(DecoderStage):
    """Both branches one stage up, then tokens ask the map."""

    def __init__(self, config, k):
        super().__init__(config, k)
        i = 3 - k
        dim = config.embed_dim * 2**i
        self.context_blocks = build_context(config, max(1, config.depths[i] // 3), dim)
        self.context_upsample = map_upsample(dim) if k < 3 else nn.Identity()
        self.cross_attention = build_cross_attention(config, i, dim // 2 if k < 3 else dim)

    def forward(self, x, g):
        g = self.context_upsample(context_chain(self.context_blocks, g))
        return self.cross_attention(super().forward(x), g), g


class GLOWNet(TokenUNet):
    name = "glownet"

    def __init__(self, config):
        super().__init__(config, ParallelEncoderStage, ParallelDecoderStage)
        dim = config.embed_dim
        self.gc_conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.gc_norm = MapNorm(8 * dim)
        self.gc_up = map_upsample(8 * dim)
        self.gc_concat_back_dim = nn.ModuleList([nn.Identity()])
        self.gc_concat_back_dim.extend(nn.Conv2d(2 * d, d, 3, padding=1) for d in (4 * dim, 2 * dim, dim))
        self.initialise()

    def restore(self, image):
        x = self.embed(image)  # tokens (batch, H/p, W/p, C)
        g = self.gc_conv_first(self.inside(image))  # map (batch, C, H, W)
        skips, map_skips = [], []
        for stage in self.layers:
            skips.append(x)
            map_skips.append(g)
            x, g = stage(x, g)
        x, g = self.bottleneck(self.norm(x)), self.gc_norm(g)
        x, g = self.layers_up[0](x), self.gc_up(g)
        for k in (1, 2, 3):
            x = self.join_skip(k, x, skips)
            g = self.gc_concat_back_dim[k](torch.cat([g, map_skips[3 - k]], dim=1))
            x, g = self.layers_up[k](x, g)
        return self.to_image(x)  # (batch, 3, H, W)
