"""Swin: patch embedding, window attention, Swin blocks and stages, patch merging.

Swin Transformer, https://arxiv.org/abs/2103.14030, as SUNet uses it, https://arxiv.org/abs/2202.14009.
Token grids are (batch, height, width, channels).
"""

import numpy as np
import torch
from einops import rearrange
from timm.layers import DropPath, Mlp, trunc_normal_
from torch import nn

from . import fast
from .attention import attention
from .config import ModelConfig
from .linear import Linear
from .windows import pad_to_windows, partition, reverse, window_mask


class PatchEmbed(nn.Module):
    """Feature map (batch, dim, H, W) -> token grid (batch, H/p, W/p, dim): one token for each p×p patch."""

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        self.proj = nn.Conv2d(dim, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(rearrange(self.proj(x), "b d h w -> b h w d"))


class WindowAttention(nn.Module):
    """W-MSA, or with a shift SW-MSA: multi-head self-attention in windows with a relative position bias (section 3.2).

    timm's module ignores a custom scale once its kernel is fused, hence this one.

    Args:
        dim: channels.
        num_heads: attention heads.
        window: side of a window, in tokens.
        shift: cyclic shift of the windows, in tokens.
        scale: factor of the logits; None means head_dim^-0.5.
    """

    def __init__(self, dim: int, num_heads: int, window: int, shift: int = 0, scale: float | None = None):
        super().__init__()
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.scale = (dim // num_heads) ** -0.5 if scale is None else scale
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        trunc_normal_(self.relative_position_bias_table, std=0.02)
        at = torch.stack(torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + window - 1
        index = apart[0] * (2 * window - 1) + apart[1]  # (window², window²)
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Token grid (batch, height, width, dim) -> the same shape, for any height and width."""
        height, width = x.shape[1:3]
        x = pad_to_windows(x, self.window).roll((-self.shift, -self.shift), (1, 2))
        padded_h, padded_w = x.shape[1:3]
        x = partition(x, self.window)  # (batch, windows, window², dim)
        q, k, v = rearrange(self.qkv(x), "b n t (three heads d) -> three b n heads t d", three=3, heads=self.num_heads)
        bias = rearrange(self.relative_position_bias_table[self.relative_position_index], "q k heads -> heads q k")
        mask = window_mask(height, width, self.window, self.shift, x.device)
        bias = bias if mask is None else bias + mask[:, None]
        x = attention(q, k, v, bias, self.scale)
        x = self.proj(rearrange(x, "b n heads t d -> b n t (heads d)"))
        x = reverse(x, padded_h, padded_w, self.window)
        return x.roll((self.shift, self.shift), (1, 2))[:, :height, :width]


class SwinBlock(nn.Module):
    """(S)W-MSA, then an MLP, each with LayerNorm, a residual connection and stochastic depth (figure 3b)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window: int,
        shift: int,
        scale: float | None = None,
        drop_path: float = 0.0,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, num_heads, window, shift, scale)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Token grid (batch, height, width, dim) -> the same shape, for any height and width."""
        if fast.enabled():
            return fast.swin_stage([self], x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        x = x + self.drop_path(self.mlp(self.norm2(x)))
        return x


class SwinStage(nn.Sequential):
    """One Swin block for each rate in `drop_paths`; every second one shifts its windows by `shift` tokens."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, scale: float | None, drop_paths: list[float]):
        super().__init__(
            *(
                SwinBlock(dim, num_heads, window, shift * (j % 2), scale, drop_path)
                for j, drop_path in enumerate(drop_paths)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Token grid (batch, height, width, dim) -> the same shape."""
        if fast.enabled():
            return fast.swin_stage(self, x)
        return super().forward(x)


def stage_options(config: ModelConfig, i: int) -> dict:
    """Arguments of `SwinStage` for encoder stage i (0 to 3)."""
    grid = config.training_size // (config.patch_size * 2**i)  # tokens per side
    window = min(config.window_size, grid)
    first, last = sum(config.depths[:i]), sum(config.depths[: i + 1])
    return {
        "dim": config.embed_dim * 2**i,
        "num_heads": config.num_heads[i],
        "window": window,
        "shift": window // 2 if grid > window else 0,  # one window that is the whole grid has nothing to shift to
        "scale": config.qk_scale,
        "drop_paths": np.linspace(0, config.drop_path_rate, sum(config.depths))[first:last].tolist(),
    }


def build_swin_stage(config: ModelConfig, i: int) -> SwinStage:
    """The Swin blocks of encoder stage i (0 to 3)."""
    return SwinStage(**stage_options(config, i))


class PatchMerging(nn.Module):
    """Token grid (batch, h, w, d) -> (batch, h/2, w/2, 2d): each 2×2 square becomes one token (section 3.1)."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Column before row: the order that the published weights were trained with.
        x = rearrange(x, "b (h row) (w col) d -> b h w (col row d)", row=2, col=2)
        return self.reduction(self.norm(x))
