"""SUNet: Swin windows in a U-Net. Patches only. https://arxiv.org/abs/2202.14009"""

import torch
from einops import rearrange
from torch import nn

from . import fast
from .base import Denoiser, full_precision
from .config import ModelConfig
from .denoising_head import build_denoising_head
from .linear import Linear
from .swin import PatchEmbed, PatchMerging, build_swin_stage
from .upsample import DualUpsample, upsample_to_image


class TokenUpsample(DualUpsample):
    """Dual up-sample of a token grid: (batch, h, w, dim) -> (batch, 2h, 2w, dim/2)."""

    def __init__(self, dim: int):
        super().__init__(dim, dim // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rearrange(super().forward(rearrange(x, "b h w d -> b d h w")), "b d h w -> b h w d")


class EncoderStage(nn.Module):
    """Swin blocks, then patch merging unless this is the deepest stage, i = 3."""

    def __init__(self, config: ModelConfig, i: int):
        super().__init__()
        self.blocks = build_swin_stage(config, i)
        self.downsample = PatchMerging(config.embed_dim * 2**i) if i < 3 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.downsample(self.blocks(x))


class DecoderStage(nn.Module):
    """Decoder stage k mirrors encoder stage 3 - k: its Swin blocks, then up-sampling unless k = 3."""

    def __init__(self, config: ModelConfig, k: int):
        super().__init__()
        self.blocks = build_swin_stage(config, 3 - k)
        self.upsample = TokenUpsample(config.embed_dim * 2 ** (3 - k)) if k < 3 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.upsample(self.blocks(x))


class TokenUNet(Denoiser):
    """The patch branch of SUNet, GLOWNet and S-GLOWNet: embedding, encoder, head, decoder with skips, output."""

    def __init__(self, config: ModelConfig, encoder_stage=EncoderStage, decoder_stage=DecoderStage):
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

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Image (batch, 3, H, W) -> tokens (batch, H/p, W/p, C)."""
        with full_precision(image):
            if fast.enabled():
                return self.to_inner(fast.embed(self.conv_first, self.patch_embed, image))
            return self.to_inner(self.patch_embed(self.conv_first(image)))

    def join_skip(self, k: int, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        """Concatenate decoder stage k's input with its skip, the input of encoder stage 3 - k; project to one width."""
        return self.concat_back_dim[k](torch.cat([x, skips[3 - k]], dim=-1))

    def to_image(self, x: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, H/p, W/p, C) -> image (batch, 3, H, W)."""
        x = rearrange(self.norm_up(x), "b h w d -> b d h w")
        return upsample_to_image(self.up, self.output, x)


class SUNet(TokenUNet):
    """Options that describe context or cross-attention have no effect."""

    name = "sunet"

    def __init__(self, config: ModelConfig):
        super().__init__(config)
        self.initialise()

    def restore(self, image: torch.Tensor) -> torch.Tensor:
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
