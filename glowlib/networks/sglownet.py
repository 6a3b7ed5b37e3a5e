"""S-GLOWNet: global context first, then patches that attend to it by cross-attention. The paper's best.

The context branch runs once, and every stage attends to its result, whose map is p times finer a side than the tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .cross_attention import build_cross_attention
from .global_context import ContextDownsample, build_context, chain_coefficients
from .sunet import DecoderStage, EncoderStage, TokenUNet


class CrossAttentionEncoderStage(EncoderStage):
    """An encoder stage of SUNet whose result asks a given map."""

    def __init__(self, config, i):
        super().__init__(config, i)
        self.cross_attention = build_cross_attention(config, i, config.embed_dim * 2 ** min(i + 1, 3))

    def forward(self, x, g):
        return self.cross_attention(super().forward(x), g)


class CrossAttentionDecoderStage(DecoderStage):
    """A decoder stage of SUNet whose result asks a given map."""

    def __init__(self, config, k):
        super().__init__(config, k)
        self.cross_attention = build_cross_attention(config, 3 - k, config.embed_dim * 2 ** max(2 - k, 0))

    def forward(self, x, g):
        return self.cross_attention(super().forward(x), g)


def neighbourhoods(image):
    """(batch, 3, H, W) -> (batch, 28, H, W): the 27 values that a 3×3 convolution sees at each pixel, and a 1."""
    around = F.unfold(image, 3, padding=1).unflatten(2, image.shape[2:])
    return torch.cat([around, torch.ones_like(around[:, :1])], dim=1)


class SGLOWNet(TokenUNet):
    name = "sglownet"

    def __init__(self, config):
        super().__init__(config, CrossAttentionEncoderStage, CrossAttentionDecoderStage)
        dim = config.embed_dim
        self.gc_conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.gcn = build_context(config, len(config.depths), dim)
        self.gc_channel_proj = nn.Conv2d(dim, dim, 1)
        self.gc_downsample_blocks = nn.ModuleList(ContextDownsample(dim * 2**i) for i in range(3))
        self.initialise()

    def context_maps(self, image):
        """G_0, pooled to the tokens' grid (batch, C, H/p, W/p), and G_1, G_2, G_3 (batch, C·2^i, H/2^i, W/2^i).

        Up to G_0 all is affine in a pixel's 3×3 neighbourhood, with coefficients that the context decides: so
        neighbourhoods are pooled, not maps, and G_0 need not exist at full size.
        """
        around = neighbourhoods(image)
        first = torch.cat([self.gc_conv_first.weight.flatten(1), self.gc_conv_first.bias[:, None]], dim=1)
        scale, offset = (t.flatten(1, 2) for t in chain_coefficients(self.gcn, around, first))  # (batch, C, 1)
        matrix = torch.cat([scale * first[:, :-1], scale * first[:, -1:] + offset], dim=2)
        project, bias = self.gc_channel_proj.weight[..., 0, 0], self.gc_channel_proj.bias[:, None]
        matrix = project @ matrix  # (batch, C, 28)
        matrix = torch.cat([matrix[..., :-1], matrix[..., -1:] + bias], dim=2)
        pooled = F.avg_pool2d(around, self.config.patch_size)
        maps = [(matrix @ pooled.flatten(2)).unflatten(2, pooled.shape[2:])]
        first_down, *further = self.gc_downsample_blocks
        maps.append(first_down.of_product(matrix, around))
        for downsample in further:
            maps.append(downsample(maps[-1]))
        return maps

    def restore(self, image):
        g = self.context_maps(self.inside(image))
        x = self.embed(image)  # (batch, H/p, W/p, C)
        skips = []
        for stage, asked in zip(self.layers, (g[1], g[2], g[3], g[3]), strict=True):
            skips.append(x)
            x = stage(x, asked)
        x = self.layers_up[0](self.bottleneck(self.norm(x)))
        for k, asked in ((1, g[1]), (2, g[0]), (3, g[0])):
            x = self.layers_up[k](self.join_skip(k, x, skips), asked)
        return self.to_image(x)  # (batch, 3, H, W)
