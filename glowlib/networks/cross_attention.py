"""Cross-attention: the five ways in which tokens ask the global context map.

Each takes tokens x (batch, h, w, d) and a map g (batch, d, H, W) with H = k·h, W = k·w,
pools g to the token grid, and returns tokens (batch, h, w, d).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from ..errors import KitError
from .fast.attention import attention
from .fast.linear import Linear, linear_add


def attend(q, k, v, num_heads, grid=None, reach=None):
    """Multi-head attention without output projection: (batch, tokens, d) each; never materialised.

    reach: of the tokens of a grid (height, width), each attends to its own window of that side only; None: to all.
    """
    if reach is not None and max(grid) > reach:
        return attend_within(q, k, v, num_heads, grid, reach)
    q, k, v = (rearrange(t, "b l (heads d) -> b heads l d", heads=num_heads) for t in (q, k, v))
    return rearrange(attention(q, k, v), "b heads l d -> b l (heads d)")


def attend_within(q, k, v, num_heads, grid, reach):
    """`attend` in windows of side `reach` that are not shifted; what pads a grid to windows is masked."""
    height, width = grid

    def windows(t):
        t = F.pad(t.unflatten(1, grid), (0, 0, 0, -width % reach, 0, -height % reach))
        return rearrange(t, "b (i a) (j c) d -> (b i j) (a c) d", a=reach, c=reach)

    real = windows(q.new_ones(q.shape[0], height * width, 1))
    mask = torch.where(real == 0, -torch.inf, 0.0).transpose(1, 2)[:, None]  # (windows, 1, 1, keys)
    q, k, v = (rearrange(windows(t), "n l (heads d) -> n heads l d", heads=num_heads) for t in (q, k, v))
    a = rearrange(attention(q, k, v, mask), "n heads l d -> n l (heads d)")
    a = rearrange(a, "(b i j) (a c) d -> b (i a) (j c) d", a=reach, i=-(-height // reach), j=-(-width // reach))
    return a[:, :height, :width].flatten(1, 2)


def coordinates(height, width, like):
    """Columns u and rows v of a grid in row-major order, each (height·width, 1), from 0 to 1."""
    u = torch.linspace(0, 1, width, device=like.device).repeat(height)
    v = torch.linspace(0, 1, height, device=like.device).repeat_interleave(width)
    return u[:, None], v[:, None]


def position_encoding(height, width, dim, like):
    """(height·width, dim): channel 2j is sin(u·ω_j), channel 2j+1 is cos(v·ω_j), ω_j = 10000^(-2j/dim)."""
    u, v = coordinates(height, width, like)
    omega = 10000.0 ** (-torch.arange(0, dim, 2, device=like.device) / dim)
    return torch.stack([torch.sin(u * omega), torch.cos(v * omega)], dim=-1).flatten(1).to(like.dtype)


def rotate(x, height, width, num_heads):
    """Rotary position (https://arxiv.org/abs/2104.09864) in two dimensions, for each head of x (batch, tokens, d)."""
    x = rearrange(x, "b l (heads d) -> b heads l d", heads=num_heads)
    half = x.shape[-1] // 2
    u, v = coordinates(height, width, x)
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.cat([u * frequency, v * frequency], dim=-1)
    turned = torch.cat([-x[..., half:], x[..., :half]], dim=-1)
    return rearrange(x * angle.cos().to(x.dtype) + turned * angle.sin().to(x.dtype), "b heads l d -> b l (heads d)")


def to_tokens(x, g):
    """Flatten x; pool g to x's grid and flatten it: both (batch, tokens, d), and the grid."""
    height, width = x.shape[1:3]
    if g.shape[2:] != (height, width):
        g = F.adaptive_avg_pool2d(g, (height, width))
    return rearrange(x, "b h w d -> b (h w) d"), rearrange(g, "b d h w -> b (h w) d"), (height, width)


class CrossAttn(nn.Module):
    """x + out(A(query·LN x, key·LN g, value·LN g))."""

    def __init__(self, dim, num_heads, reach=None):
        super().__init__()
        self.num_heads, self.reach = num_heads, reach
        self.norm_local, self.norm_global = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_proj, self.key_proj, self.value_proj = (Linear(dim, dim) for _ in range(3))
        self.out_proj = Linear(dim, dim)

    def forward(self, x, g):
        tokens, g, (h, w) = to_tokens(x, g)
        q, g = self.norm_local(tokens), self.norm_global(g)
        a = attend(self.query_proj(q), self.key_proj(g), self.value_proj(g), self.num_heads, (h, w), self.reach)
        return rearrange(linear_add(a, self.out_proj, tokens), "b (h w) d -> b h w d", h=h, w=w)


class ResidualInsideAttn(nn.Module):
    """out(x + gate·A(x, g, g)): the original's other four, whose residual goes through the projection.

    `gated` multiplies what was attended by sigmoid(gate_proj[x, a]); `position` is None, "added"
    (sinusoids added to x and g) or "rotary" (q and k turned).
    """

    def __init__(self, dim, num_heads, reach=None, *, gated, position):
        super().__init__()
        self.num_heads, self.reach, self.position = num_heads, reach, position
        self.q_proj, self.k_proj, self.v_proj = (Linear(dim, dim) for _ in range(3))
        self.gate_proj = Linear(2 * dim, dim) if gated else None
        self.out_proj = Linear(dim, dim)

    def forward(self, x, g):
        x, g, (h, w) = to_tokens(x, g)
        if self.position == "added":
            place = position_encoding(h, w, x.shape[-1], x)
            x, g = x + place, g + place
        q, k, v = self.q_proj(x), self.k_proj(g), self.v_proj(g)
        if self.position == "rotary":
            q, k = (rotate(t, h, w, self.num_heads) for t in (q, k))
        a = attend(q, k, v, self.num_heads, (h, w), self.reach)
        if self.gate_proj is not None:
            a = self.gate_proj(torch.cat([x, a], dim=-1)).sigmoid() * a
        return rearrange(self.out_proj(x + a), "b (h w) d -> b h w d", h=h, w=w)


# name in the kit's options -> constructor
FUSIONS = {
    "cross": CrossAttn,
    "gated": lambda *sizes: ResidualInsideAttn(*sizes, gated=True, position=None),
    "posenc": lambda *sizes: ResidualInsideAttn(*sizes, gated=False, position="added"),
    "gated_posenc": lambda *sizes: ResidualInsideAttn(*sizes, gated=True, position="added"),
    "rope": lambda *sizes: ResidualInsideAttn(*sizes, gated=False, position="rotary"),
}


def build_cross_attention(config, i, dim):
    """The configured fusion of `dim` channels, with the heads of encoder stage i."""
    heads = config.num_heads[i]
    if dim % heads or (config.fusion == "rope" and dim // heads % 2):
        even = "an even number of " if config.fusion == "rope" else ""
        raise KitError(
            f"cross-attention needs {even}channels a head: {dim} channels do not fit num_heads[{i}] = {heads}"
        )
    return FUSIONS[config.fusion](dim, heads, config.attention_reach)
