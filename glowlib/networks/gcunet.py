"""GCUNet: global context blocks in a U-Net. Context only: the paper's baseline."""

import torch
from einops import rearrange
from torch import nn

from .base import Denoiser
from .denoising_head import build_denoising_head
from .global_context import ContextDownsample, MapNorm, build_context, context_chain
from .upsample import DualUpsample, enlarge_to_image


class ContextStage(nn.Module):
    """Global context blocks, then a change of resolution."""

    def __init__(self, config, i, **resample):
        super().__init__()
        self.blocks = build_context(config, config.depths[i], config.embed_dim * 2**i)
        ((name, module),) = resample.items()
        self.add_module(name, module)
        self.resample = name

    def forward(self, x):
        return getattr(self, self.resample)(context_chain(self.blocks, x))


class GCUNet(Denoiser):
    name = "gcunet"

    def __init__(self, config):
        super().__init__(config)
        dim = config.embed_dim
        widths = [dim * 2**i for i in range(4)]
        self.conv_first = nn.Sequential(
            nn.Conv2d(3, dim, 3, stride=2, padding=1),
            MapNorm(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, dim, 3, stride=config.patch_size // 2, padding=1),
            MapNorm(dim),
            nn.ReLU(inplace=True),
        )
        self.layers = nn.ModuleList(
            ContextStage(config, i, downsample=ContextDownsample(d) if i < 3 else nn.Identity())
            for i, d in enumerate(widths)
        )
        self.norm = MapNorm(8 * dim)
        self.bottleneck = build_denoising_head(config)
        self.layers_up = nn.ModuleList(
            ContextStage(config, i, upsample=DualUpsample(d, d // 2) if i else nn.Identity())
            for i, d in reversed(list(enumerate(widths)))
        )
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        self.concat_back_dim.extend(nn.Conv2d(2 * d, d, 1) for d in (4 * dim, 2 * dim, dim))
        self.norm_up = MapNorm(dim)
        self.up = DualUpsample(dim, dim, config.patch_size)
        self.output = nn.Conv2d(dim, 3, 3, padding=1, bias=False)
        self.initialise()

    def restore(self, image):
        x = self.inside(self.conv_first(image))  # (batch, C, H/p, W/p)
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
        return enlarge_to_image(self.up, self.output, self.norm_up(x))  # (batch, 3, H, W)
