"""GLOWNet and S-GLOWNet: patches that ask a global context map, by cross-attention.

GLOWNet runs a context branch beside SUNet, stage by stage; S-GLOWNet runs it once, first,
and lets every stage ask the result. The map is always p times finer a side than the tokens.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .global_context import ContextDownsample, MapNorm, chain_coefficients, context_blocks, context_chain
from ..errors import KitError
from .cross_attention import FUSIONS
from .sunet import DecoderStage, EncoderStage, TokenUNet
from .upsample import DualUpsample


def cross_attention(config, i, dim):
    """The configured fusion of `dim` channels, with the heads of encoder stage i."""
    heads = config.num_heads[i]
    if dim % heads or (config.fusion == "rope" and dim // heads % 2):
        even = "an even number of " if config.fusion == "rope" else ""
        raise KitError(
            f"cross-attention needs {even}channels a head: {dim} channels do not fit num_heads[{i}] = {heads}"
        )
    return FUSIONS[config.fusion](dim, heads)


def context(config, depth, dim):
    return context_blocks(depth, dim, config.context_ratio, config.context_pooling, config.context_fusion)


def map_upsample(dim):
    """The context branch's up-sample, which has no bias at all."""
    return DualUpsample(dim, dim // 2, smooth_bias=False)


class ParallelEncoderStage(EncoderStage):
    """Both branches one stage down, then tokens ask the map."""

    def __init__(self, config, i):
        super().__init__(config, i)
        dim = config.embed_dim * 2**i
        self.context_blocks = context(config, max(1, config.depths[i] // 3), dim)
        self.gc_downsample = ContextDownsample(dim) if i < 3 else nn.Identity()
        self.cross_attention = cross_attention(config, i, 2 * dim if i < 3 else dim)

    def forward(self, x, g):
        g = self.gc_downsample(context_chain(self.context_blocks, g))
        return self.cross_attention(super().forward(x), g), g


class ParallelDecoderStage(DecoderStage):
    """Both branches one stage up, then tokens ask the map."""

    def __init__(self, config, k):
        super().__init__(config, k)
        i = 3 - k
        dim = config.embed_dim * 2**i
        self.context_blocks = context(config, max(1, config.depths[i] // 3), dim)
        self.context_upsample = map_upsample(dim) if k < 3 else nn.Identity()
        self.cross_attention = cross_attention(config, i, dim // 2 if k < 3 else dim)

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


class AskingEncoderStage(EncoderStage):
    """An encoder stage of SUNet whose result asks a given map."""

    def __init__(self, config, i):
        super().__init__(config, i)
        self.cross_attention = cross_attention(config, i, config.embed_dim * 2 ** min(i + 1, 3))

    def forward(self, x, g):
        return self.cross_attention(super().forward(x), g)


class AskingDecoderStage(DecoderStage):
    """A decoder stage of SUNet whose result asks a given map."""

    def __init__(self, config, k):
        super().__init__(config, k)
        self.cross_attention = cross_attention(config, 3 - k, config.embed_dim * 2 ** max(2 - k, 0))

    def forward(self, x, g):
        return self.cross_attention(super().forward(x), g)


def neighbourhoods(image):
    """(batch, 3, H, W) -> (batch, 28, H, W): the 27 values that a 3×3 convolution sees at each pixel, and a 1."""
    around = F.unfold(image, 3, padding=1).unflatten(2, image.shape[2:])
    return torch.cat([around, torch.ones_like(around[:, :1])], dim=1)


class SGLOWNet(TokenUNet):
    name = "sglownet"

    def __init__(self, config):
        super().__init__(config, AskingEncoderStage, AskingDecoderStage)
        dim = config.embed_dim
        self.gc_conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.gcn = context(config, len(config.depths), dim)
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
