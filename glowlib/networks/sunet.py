"""SUNet: Swin windows in a U-Net. Patches only. https://arxiv.org/abs/2202.14009"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from .base import Denoiser, full_precision
from .denoising_head import build_denoising_head
from .fast.linear import Linear
from .swin import PatchEmbed, PatchMerging, build_swin_blocks
from .upsample import DualUpsample, enlarge_to_image


class TokenUpsample(DualUpsample):
    """Dual up-sample of a token grid, (batch, h, w, d) -> (batch, 2h, 2w, d/2)."""

    def __init__(self, dim):
        super().__init__(dim, dim // 2)

    def forward(self, x):
        return rearrange(super().forward(rearrange(x, "b h w d -> b d h w")), "b d h w -> b h w d")


class EncoderStage(nn.Module):
    """Swin blocks, then patch merging unless this is the deepest stage."""

    def __init__(self, config, i):
        super().__init__()
        self.blocks = build_swin_blocks(config, i)
        self.downsample = PatchMerging(config.embed_dim * 2**i) if i < 3 else nn.Identity()

    def forward(self, x):
        return self.downsample(self.blocks(x))


class DecoderStage(nn.Module):
    """Swin blocks of the mirrored encoder stage, then up-sampling unless this is the last stage."""

    def __init__(self, config, k):
        super().__init__()
        self.blocks = build_swin_blocks(config, 3 - k)
        self.upsample = TokenUpsample(config.embed_dim * 2 ** (3 - k)) if k < 3 else nn.Identity()

    def forward(self, x):
        return self.upsample(self.blocks(x))


class TokenUNet(Denoiser):
    """The patch branch, which all but GCUNet have: embedding, encoder, head, decoder with skips, output."""

    def __init__(self, config, encoder_stage=EncoderStage, decoder_stage=DecoderStage):
        super().__init__(config)
        dim = config.embed_dim
        self.conv_first = nn.Conv2d(3, dim, 3, padding=1)
        self.patch_embed = PatchEmbed(dim, config.patch_size)
        self.layers = nn.ModuleList(encoder_stage(config, i) for i in range(4))
        self.norm = nn.LayerNorm(8 * dim)
        self.bottleneck = build_denoising_head(config)
        self.layers_up = nn.ModuleList([TokenUpsample(8 * dim)])
        self.layers_up.extend(decoder_stage(config, k) for k in (1, 2, 3))
        # Index 0 is a placeholder: the published names count from 1.
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        self.concat_back_dim.extend(Linear(2 * d, d) for d in (4 * dim, 2 * dim, dim))
        self.norm_up = nn.LayerNorm(dim)
        self.up = DualUpsample(dim, dim, config.patch_size)
        self.output = nn.Conv2d(dim, 3, 3, padding=1, bias=False)

    def embed(self, image):
        """(batch, 3, H, W) -> tokens (batch, H/p, W/p, C)."""
        # Two convolutions with nothing between them are one: p + 2 pixels a side, at stride p.
        first, patch = self.conv_first, self.patch_embed.proj
        with full_precision(image):
            kernel = F.conv_transpose2d(patch.weight, first.weight)
            bias = patch.bias + patch.weight.sum((2, 3)) @ first.bias
            x = F.conv2d(image, kernel, bias, patch.stride, first.padding)
            return self.inside(self.patch_embed.norm(rearrange(x, "b d h w -> b h w d")))

    def join_skip(self, k, x, skips):
        """Decoder stage k sees [decoder, skip], projected back to the width of one."""
        return self.concat_back_dim[k](torch.cat([x, skips[3 - k]], dim=-1))

    def to_image(self, x):
        """Tokens (batch, H/p, W/p, C) -> (batch, 3, H, W)."""
        return enlarge_to_image(self.up, self.output, rearrange(self.norm_up(x), "b h w d -> b d h w"))


class SUNet(TokenUNet):
    name = "sunet"

    def __init__(self, config):
        super().__init__(config)
        self.initialise()

    def restore(self, image):
        x = self.embed(image)  # (batch, H/p, W/p, C)
        skips = []
        for stage in self.layers:  # stage i: (H/p)/2^i tokens a side, C·2^i channels
            skips.append(x)
            x = stage(x)
        x = self.bottleneck(self.norm(x))  # (batch, H/8p, W/8p, 8C)
        x = self.layers_up[0](x)
        for k in (1, 2, 3):
            x = self.layers_up[k](self.join_skip(k, x, skips))
        return self.to_image(x)  # (batch, 3, H, W)
