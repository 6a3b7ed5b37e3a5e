"""S-GLOWNet: global context first, then patches that attend to it. The paper's best network.

Patch-based Neural Networks with Global Context Integration. The context branch runs once, and every stage attends to
its feature maps, which are p times finer per side than the tokens.
"""

import torch
from torch import nn

from . import fast
from .config import ModelConfig
from .cross_attention import build_cross_attention
from .global_context import ContextDownsample, build_context_chain
from .sunet import DecoderStage, EncoderStage, TokenUNet


class CrossAttentionEncoderStage(EncoderStage):
    """SUNet encoder stage followed by cross-attention to a given context feature map."""

    def __init__(self, config: ModelConfig, i: int):
        super().__init__(config, i)
        self.cross_attention = build_cross_attention(config, i, config.embed_dim * 2 ** min(i + 1, 3))

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return self.cross_attention(super().forward(x), g)


class CrossAttentionDecoderStage(DecoderStage):
    """SUNet decoder stage, k for encoder stage 3 - k, followed by cross-attention to a given context feature map."""

    def __init__(self, config: ModelConfig, k: int):
        super().__init__(config, k)
        self.cross_attention = build_cross_attention(config, 3 - k, config.embed_dim * 2 ** max(2 - k, 0))

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        return self.cross_attention(super().forward(x), g)


class SGLOWNet(TokenUNet):
    name = "sglownet"

    def __init__(self, config: ModelConfig):
        super().__init__(config, CrossAttentionEncoderStage, CrossAttentionDecoderStage)
        dim = config.embed_dim
        self.gc_conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.gcn = build_context_chain(config, len(config.depths), dim)
        self.gc_channel_proj = nn.Conv2d(dim, dim, 1)
        self.gc_downsample_blocks = nn.ModuleList(ContextDownsample(dim * 2**i) for i in range(3))
        self.initialise()

    def context_maps(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Image (batch, 3, H, W) -> context feature maps G_0 to G_3; G_i is (batch, C·2^i, H/2^i, W/2^i)."""
        if fast.enabled():
            return fast.context_maps(self, image)
        maps = [self.gc_channel_proj(self.gcn(self.gc_conv_first(image)))]
        for downsample in self.gc_downsample_blocks:
            maps.append(downsample(maps[-1]))
        return maps

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        g = self.context_maps(self.to_inner(image))
        x = self.embed(image)  # (batch, H/p, W/p, C)
        skips = []
        for stage, context in zip(self.layers, (g[1], g[2], g[3], g[3]), strict=True):
            skips.append(x)
            x = stage(x, context)
        x = self.layers_up[0](self.bottleneck(self.norm(x)))
        for k, context in ((1, g[1]), (2, g[0]), (3, g[0])):
            x = self.layers_up[k](self.join_skip(k, x, skips), context)
        return self.to_image(x)  # (batch, 3, H, W)
