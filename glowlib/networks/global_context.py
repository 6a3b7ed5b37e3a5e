"""Global context: blocks that tell every pixel about the whole picture.

GCNet, https://arxiv.org/abs/1904.11492. Feature maps are (batch, channels, height, width).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn


class MapNorm(nn.BatchNorm2d):
    """BatchNorm that falls back on its running statistics where there is one value a channel."""

    def forward(self, x):
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class GlobalContextBlock(nn.Module):
    """Pool the map to one vector, transform it, and give it back to every pixel.

    `pooling` is "att" (a learned softmax over all positions) or "avg"; `fusion` holds
    "mul" (channel gates), "add" (channel offsets) or both: x · sigmoid(mul) + add.
    Since the block is an affine map of each channel, with coefficients that depend on
    the pooled vector alone, a chain of blocks never needs its intermediate
    maps: `chain_coefficients` is all there is to compute.
    """

    def __init__(self, dim, ratio, pooling="att", fusion=("add",)):
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

    def pool(self, x, scale, offset, basis=None):
        """The context of scale·y + offset, (batch, d, 1, 1); y is x, or basis @ x with a matrix (d, channels of x)."""
        if self.conv_mask is None:
            context = x.mean((2, 3))[..., None]
        else:
            pixels = x.flatten(2)
            # The offset adds the same to every logit, which a softmax does not see.
            weight = rearrange(self.conv_mask.weight * scale, "b d 1 1 -> b 1 d")
            weight = weight if basis is None else weight @ basis
            attention = (weight @ pixels + self.conv_mask.bias).softmax(dim=-1)
            context = pixels @ attention.transpose(1, 2)
        context = context if basis is None else basis @ context
        return context[..., None] * scale + offset

    def forward(self, x):
        """(batch, dim, H, W) -> the same shape."""
        return context_chain([self], x)


def chain_coefficients(blocks, x, basis=None):
    """Scale and offset, (batch, d, 1, 1), that global context blocks one after the other give to each channel.

    x: (batch, d, H, W); or any (batch, n, H, W) from which a matrix `basis`, (d, n), makes the map.
    """
    scale = x.new_ones(len(x), x.shape[1] if basis is None else len(basis), 1, 1)
    offset = torch.zeros_like(scale)
    for block in blocks:
        context = block.pool(x, scale, offset, basis)
        if block.channel_mul_conv is not None:
            gate = block.channel_mul_conv(context).sigmoid()
            scale, offset = scale * gate, offset * gate
        if block.channel_add_conv is not None:
            offset = offset + block.channel_add_conv(context)
    return scale, offset


def context_chain(blocks, x):
    """Apply global context blocks one after the other to x, (batch, d, H, W), writing one map in all."""
    scale, offset = chain_coefficients(blocks, x)
    return torch.addcmul(offset, x, scale)


def context_blocks(depth, dim, ratio, pooling, fusion):
    """`depth` global context blocks, to be applied with `context_chain`."""
    return nn.ModuleList(GlobalContextBlock(dim, ratio, pooling, fusion) for _ in range(depth))


def build_context(config, depth, dim):
    """`context_blocks` as a `ModelConfig` describes them."""
    depth = depth if config.context_blocks else 0
    return context_blocks(depth, dim, config.context_ratio, config.context_pooling, config.context_fusion)


class ContextDownsample(nn.Module):
    """(batch, d, H, W) -> (batch, 2d, H/2, W/2): strided convolution, BatchNorm, ReLU."""

    def __init__(self, dim):
        super().__init__()
        self.conv_down = nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1)
        self.norm = MapNorm(2 * dim)

    def forward(self, x):
        return F.relu(self.norm(self.conv_down(x)), inplace=True)

    def of_product(self, matrix, x):
        """The same of the map matrix @ x: (batch, d, n) and (batch, n, H, W); with few n, it is never written."""
        if torch.is_grad_enabled():  # training takes small pictures, many at once
            return self((matrix @ x.flatten(2)).unflatten(2, x.shape[2:]))
        conv = self.conv_down
        kernels = torch.einsum("odij,bdn->bonij", conv.weight, matrix)
        x = torch.cat([F.conv2d(*pair, conv.bias, 2, 1) for pair in zip(x.split(1), kernels, strict=True)])
        return F.relu(self.norm(x), inplace=True)
