"""Global context: blocks that add a summary of the whole image to every pixel.

GCNet, https://arxiv.org/abs/1904.11492. Feature maps are (batch, channels, height, width).
"""

import torch
import torch.nn.functional as F
from torch import nn

from . import fast
from .config import ModelConfig


class MapNorm(nn.BatchNorm2d):
    """BatchNorm that uses its running statistics where training has one value per channel, which has no variance."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class GlobalContextBlock(nn.Module):
    """Pool the feature map to one vector, transform it, and scale or shift every position with it (figure 4d).

    Args:
        dim: channels.
        ratio: hidden channels of the transform, as a share of `dim`.
        pooling: "att" (softmax-weighted sum over all positions) or "avg" (mean).
        fusion: "mul" (channel gates), "add" (channel offsets) or both: x · sigmoid(mul) + add.
    """

    def __init__(self, dim: int, ratio: float, pooling: str = "att", fusion: tuple = ("add",)):
        super().__init__()
        hidden = max(1, int(dim * ratio))
        self.conv_mask = nn.Conv2d(dim, 1, 1) if pooling == "att" else None
        self.channel_mul_conv = self.bottleneck(dim, hidden) if "mul" in fusion else None
        self.channel_add_conv = self.bottleneck(dim, hidden) if "add" in fusion else None

    @staticmethod
    def bottleneck(dim, hidden):
        last = nn.Conv2d(hidden, dim, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.LayerNorm([hidden, 1, 1]), nn.ReLU(inplace=True), last)

    def pool(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map (batch, dim, H, W) -> context vector (batch, dim, 1, 1)."""
        if self.conv_mask is None:
            return x.mean((2, 3), keepdim=True)
        weights = self.conv_mask(x).flatten(2).softmax(dim=-1)  # (batch, 1, pixels)
        return (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map (batch, dim, H, W) -> the same shape."""
        if fast.enabled():
            return fast.context_chain([self], x)
        context = self.pool(x)
        if self.channel_mul_conv is not None:
            x = x * self.channel_mul_conv(context).sigmoid()
        if self.channel_add_conv is not None:
            x = x + self.channel_add_conv(context)
        return x


class GlobalContextChain(nn.Sequential):
    """`depth` global context blocks, one after the other; the other arguments are those of `GlobalContextBlock`."""

    def __init__(self, depth: int, dim: int, ratio: float, pooling: str, fusion: tuple):
        super().__init__(*(GlobalContextBlock(dim, ratio, pooling, fusion) for _ in range(depth)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Feature map (batch, dim, H, W) -> the same shape."""
        if fast.enabled():
            return fast.context_chain(self, x)
        return super().forward(x)


def build_context_chain(config: ModelConfig, depth: int, dim: int) -> GlobalContextChain:
    """A chain of `depth` blocks with the configured options; an empty one if `context_blocks` is off."""
    depth = depth if config.context_blocks else 0
    return GlobalContextChain(depth, dim, config.context_ratio, config.context_pooling, config.context_fusion)


class ContextDownsample(nn.Module):
    """Feature map (batch, d, H, W) -> (batch, 2d, H/2, W/2): strided convolution, BatchNorm, ReLU."""

    def __init__(self, dim: int):
        super().__init__()
        self.conv_down = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.norm = MapNorm(2 * dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv_down(x)), inplace=True)
