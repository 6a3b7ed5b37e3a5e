"""Global context without intermediate feature maps.

A context block is an affine map of each channel, whose coefficients depend on the pooled context alone. So a chain of
blocks is one scale and one offset per channel. In S-GLOWNet all up to G_0 is then affine in the 3×3 neighbourhood of a
pixel, 27 values and a constant: neighbourhoods are pooled in place of feature maps, and G_0 is never materialised.
"""

import torch
import torch.nn.functional as F
from einops import rearrange


def pool(block, x, scale, offset, basis=None):
    """Context vector (batch, d, 1, 1) of the feature map scale · y + offset; y = x, or y = basis @ x."""
    if block.conv_mask is None:
        context = x.mean((2, 3))[..., None]
    else:
        pixels = x.flatten(2)
        # The offset adds the same to every logit, which a softmax ignores.
        weight = rearrange(block.conv_mask.weight * scale, "b d 1 1 -> b 1 d")
        weight = weight if basis is None else weight @ basis
        attention = (weight @ pixels + block.conv_mask.bias).softmax(dim=-1)
        context = pixels @ attention.transpose(1, 2)
    context = context if basis is None else basis @ context
    return context[..., None] * scale + offset


def chain_coefficients(blocks, x, basis=None):
    """Scale and offset, (batch, d, 1, 1) each, that a chain of global context blocks applies to each channel.

    x: feature map (batch, d, H, W); or (batch, n, H, W) if a basis (d, n) is given, for the feature map basis @ x.
    """
    scale = x.new_ones(x.shape[0], x.shape[1] if basis is None else len(basis), 1, 1)
    offset = torch.zeros_like(scale)
    for block in blocks:
        context = pool(block, x, scale, offset, basis)
        if block.channel_mul_conv is not None:
            gate = block.channel_mul_conv(context).sigmoid()
            scale, offset = scale * gate, offset * gate
        if block.channel_add_conv is not None:
            offset = offset + block.channel_add_conv(context)
    return scale, offset


def context_chain(blocks, x: torch.Tensor) -> torch.Tensor:
    """Global context blocks one after the other on x, (batch, d, H, W): one feature map is written in all."""
    scale, offset = chain_coefficients(blocks, x)
    return torch.addcmul(offset, x, scale)


def downsample_product(downsample, matrix, x):
    """`downsample` of the feature map matrix @ x: (batch, d, n) and (batch, n, H, W) -> (batch, 2d, H/2, W/2).

    Without gradient the feature map is not materialised: the matrix is folded into the convolution kernel.
    """
    # Training takes many small images, each with a matrix of its own; an exported graph, any number of images.
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        return downsample((matrix @ x.flatten(2)).unflatten(2, x.shape[2:]))
    conv = downsample.conv_down
    kernels = torch.einsum("odij,bdn->bonij", conv.weight, matrix)
    x = torch.cat([F.conv2d(*pair, conv.bias, 2, 1) for pair in zip(x.split(1), kernels, strict=True)])
    return F.relu(downsample.norm(x), inplace=True)


def neighbourhoods(image):
    """(batch, 3, H, W) -> (batch, 28, H, W): the 27 values that a 3×3 convolution sees at each pixel, and a 1."""
    around = F.unfold(image, 3, padding=1).unflatten(2, image.shape[2:])
    return torch.cat([around, torch.ones_like(around[:, :1])], dim=1)


def context_maps(network, image: torch.Tensor) -> list[torch.Tensor]:
    """G_0 to G_3 of S-GLOWNet, G_0 already pooled to the tokens' grid: (batch, C, H/p, W/p)."""
    around = neighbourhoods(image)
    first = torch.cat([network.gc_conv_first.weight.flatten(1), network.gc_conv_first.bias[:, None]], dim=1)
    scale, offset = (t.flatten(1, 2) for t in chain_coefficients(network.gcn, around, first))  # (batch, C, 1)
    matrix = torch.cat([scale * first[:, :-1], scale * first[:, -1:] + offset], dim=2)
    project, bias = network.gc_channel_proj.weight[..., 0, 0], network.gc_channel_proj.bias[:, None]
    matrix = project @ matrix  # (batch, C, 28)
    matrix = torch.cat([matrix[..., :-1], matrix[..., -1:] + bias], dim=2)
    pooled = F.avg_pool2d(around, network.config.patch_size)
    maps = [(matrix @ pooled.flatten(2)).unflatten(2, pooled.shape[2:])]
    first_down, *further = network.gc_downsample_blocks
    maps.append(downsample_product(first_down, matrix, around))
    for downsample in further:
        maps.append(downsample(maps[-1]))
    return maps
