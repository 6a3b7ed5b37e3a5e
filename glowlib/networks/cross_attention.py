"""Cross-attention: the paper's five ways in which tokens attend to the global context feature map.

Each takes tokens x (batch, h, w, d) and a feature map g (batch, d, k·h, k·w), pools g to the token grid, and returns
tokens (batch, h, w, d). A(q, k, v) below is multi-head attention without its output projection.
"""

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ..errors import KitError
from . import fast
from .attention import attention
from .config import ModelConfig
from .linear import Linear
from .windows import pad_to_windows, partition, reverse


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    num_heads: int,
    grid: tuple[int, int],
    reach: int | None = None,
) -> torch.Tensor:
    """Multi-head attention A(q, k, v).

    Args:
        q, k, v: (batch, h·w, d), tokens of a grid in row-major order.
        num_heads: attention heads, a divisor of d.
        grid: (h, w).
        reach: side, in tokens, of the windows that attention is confined to (not shifted); None for the whole grid.

    Returns:
        (batch, h·w, d).
    """
    batch, mask = q.shape[0], None
    confined = reach is not None and max(grid) > reach
    if confined:
        q, k, v, real = (to_windows(t, grid, reach) for t in (q, k, v, torch.ones_like(q[..., :1])))
        mask = torch.where(real == 0, -torch.inf, 0.0).transpose(1, 2)[:, None]  # (batch·windows, 1, 1, reach²)
    q, k, v = (rearrange(t, "b l (heads d) -> b heads l d", heads=num_heads) for t in (q, k, v))
    a = fast.attention(q, k, v, mask) if fast.enabled() else attention(q, k, v, mask)
    a = rearrange(a, "b heads l d -> b l (heads d)")
    return reverse(a.unflatten(0, (batch, -1)), *grid, reach).flatten(1, 2) if confined else a


def to_windows(tokens, grid, window):
    """(batch, h·w, d) -> (batch·windows, window², d), padded with zeros to whole windows."""
    return partition(pad_to_windows(tokens.unflatten(1, grid), window), window).flatten(0, 1)


def coordinates(height, width, like):
    """Columns u and rows v of a grid in row-major order, each (height·width, 1), from 0 to 1."""
    u = torch.linspace(0, 1, width, device=like.device).repeat(height)
    v = torch.linspace(0, 1, height, device=like.device).repeat_interleave(width)
    return u[:, None], v[:, None]


def position_encoding(height: int, width: int, dim: int, like: torch.Tensor) -> torch.Tensor:
    """(height·width, dim): channel 2j is sin(u·ω_j), channel 2j+1 is cos(v·ω_j), ω_j = 10000^(-2j/dim)."""
    u, v = coordinates(height, width, like)
    omega = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device) / dim)
    return torch.stack([torch.sin(u * omega), torch.cos(v * omega)], dim=-1).flatten(1).to(like.dtype)


def rotate(x: torch.Tensor, height: int, width: int, num_heads: int) -> torch.Tensor:
    """Rotary position (https://arxiv.org/abs/2104.09864) in two dimensions, for each head of x (batch, tokens, d)."""
    x = rearrange(x, "b l (heads d) -> b heads l d", heads=num_heads)
    half = x.shape[-1] // 2
    u, v = coordinates(height, width, x)
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.cat([u * frequency, v * frequency], dim=-1)
    rotated = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return rearrange(x * angle.cos().to(x.dtype) + rotated * angle.sin().to(x.dtype), "b heads l d -> b l (heads d)")


def to_tokens(x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Flatten x; pool g to the grid of x and flatten it: both (batch, tokens, d), and the grid."""
    height, width = x.shape[1:3]
    if g.shape[2:] != (height, width):
        g = F.adaptive_avg_pool2d(g, (height, width))
    return rearrange(x, "b h w d -> b (h w) d"), rearrange(g, "b d h w -> b (h w) d"), (height, width)


class CrossAttn(nn.Module):
    """x + out(A(query · LN x, key · LN g, value · LN g)).

    Args:
        dim: channels of x and g.
        num_heads: attention heads.
        reach: see `attend`.
    """

    def __init__(self, dim: int, num_heads: int, reach: int | None = None):
        super().__init__()
        self.num_heads, self.reach = num_heads, reach
        self.norm_local, self.norm_global = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_proj, self.key_proj, self.value_proj = (Linear(dim, dim) for _ in range(3))
        self.out_proj = Linear(dim, dim)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        x, g, (h, w) = to_tokens(x, g)
        local, context = self.norm_local(x), self.norm_global(g)
        q, k, v = self.query_proj(local), self.key_proj(context), self.value_proj(context)
        a = attend(q, k, v, self.num_heads, (h, w), self.reach)
        x = fast.linear_add(a, self.out_proj, x) if fast.enabled() else x + self.out_proj(a)
        return rearrange(x, "b (h w) d -> b h w d", h=h, w=w)


class ResidualInsideAttn(nn.Module):
    """out(x + gate · A(x, g, g)): the other four, whose residual goes through the output projection.

    Args:
        dim, num_heads, reach: as of `CrossAttn`.
        gated: whether the gate is sigmoid(gate_proj[x, a]); 1 otherwise.
        position: None, "added" (sinusoids added to x and g) or "rotary" (q and k rotated).
    """

    def __init__(self, dim: int, num_heads: int, reach: int | None = None, *, gated: bool, position: str | None):
        super().__init__()
        self.num_heads, self.reach, self.position = num_heads, reach, position
        self.q_proj, self.k_proj, self.v_proj = (Linear(dim, dim) for _ in range(3))
        self.gate_proj = Linear(2 * dim, dim) if gated else None
        self.out_proj = Linear(dim, dim)

    def forward(self, x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        x, g, (h, w) = to_tokens(x, g)
        if self.position == "added":
            encoding = position_encoding(h, w, x.shape[-1], x)
            x, g = x + encoding, g + encoding
        q, k, v = self.q_proj(x), self.k_proj(g), self.v_proj(g)
        if self.position == "rotary":
            q, k = (rotate(t, h, w, self.num_heads) for t in (q, k))
        a = attend(q, k, v, self.num_heads, (h, w), self.reach)
        if self.gate_proj is not None:
            a = self.gate_proj(torch.cat([x, a], dim=-1)).sigmoid() * a
        return rearrange(self.out_proj(x + a), "b (h w) d -> b h w d", h=h, w=w)


# Value of the option `fusion` -> constructor (dim, num_heads, reach).
FUSIONS = {
    "cross": CrossAttn,
    "gated": partial(ResidualInsideAttn, gated=True, position=None),
    "posenc": partial(ResidualInsideAttn, gated=False, position="added"),
    "gated_posenc": partial(ResidualInsideAttn, gated=True, position="added"),
    "rope": partial(ResidualInsideAttn, gated=False, position="rotary"),
}


def build_cross_attention(config: ModelConfig, i: int, dim: int) -> nn.Module:
    """The configured cross-attention of `dim` channels, with the heads of encoder stage i."""
    heads = config.num_heads[i]
    if dim % heads or (config.fusion == "rope" and dim // heads % 2):
        even = "an even number of " if config.fusion == "rope" else ""
        raise KitError(
            f"cross-attention needs {even}channels a head: {dim} channels do not fit num_heads[{i}] = {heads}"
        )
    return FUSIONS[config.fusion](dim, heads, config.attention_reach)
