"""The yardstick of the speed measurements: the same networks and weights, computed the plain way.

Attention is materialised, its bias and mask are made anew in every block, each context block writes its map,
and the up-samples are as published. The outputs are equal up to rounding.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from einops import rearrange

from . import cross_attention, gcunet, glownet, sglownet, sunet, swin
from .fast import linear
from .fast.attention import materialised
from .swin import window_mask
from .upsample import DualUpsample


def chain(blocks, x):
    """Context blocks one after the other, each over the map that the one before wrote."""
    for block in blocks:
        if block.conv_mask is None:
            context = x.mean((2, 3), keepdim=True)
        else:
            weights = block.conv_mask(x).flatten(2).softmax(dim=-1)  # (batch, 1, pixels)
            context = (x.flatten(2) @ weights.transpose(1, 2)).unsqueeze(-1)
        if block.channel_mul_conv is not None:
            gate = torch.sigmoid(block.channel_mul_conv(context))
            x = x * gate
        if block.channel_add_conv is not None:
            x = x + block.channel_add_conv(context)
    return x


def attend(block, x):
    """Window attention of a token grid: roll, cut into windows, attend, and all the way back."""
    height, width = x.shape[1:3]
    window, shift, heads = block.window, block.shift, block.attn.num_heads
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window)).roll((-shift, -shift), (1, 2))
    rows = x.shape[1] // window
    x = rearrange(x, "b (i a) (j c) d -> b (i j) (a c) d", a=window, c=window)
    qkv = rearrange(block.attn.qkv(x), "b n t (three heads d) -> three b n heads t d", three=3, heads=heads)
    bias = rearrange(block.attn.relative_position_bias_table[block.attn.bias_index], "q k heads -> heads q k")
    mask = window_mask.__wrapped__(height, width, window, shift, x.device)
    bias = bias if mask is None else bias + mask[:, None]
    x = rearrange(materialised(*qkv, bias, block.attn.scale), "b n heads t d -> b n t (heads d)")
    x = rearrange(block.attn.proj(x), "b (i j) (a c) d -> b (i a) (j c) d", i=rows, a=window)
    return x.roll((shift, shift), (1, 2))[:, :height, :width]


def through_blocks(blocks, x):
    for block in blocks:
        x = x + block.drop_path(attend(block, block.norm1(x)))
        x = x + block.drop_path(block.mlp(block.norm2(x)))
    return x


def embed(network, image):
    return network.patch_embed(network.conv_first(image))


def context_maps(self, image):
    """As published; the pooling to the tokens' grid is left to cross-attention."""
    maps = [self.gc_channel_proj(chain(self.gcn, self.gc_conv_first(image)))]
    for downsample in self.gc_downsample_blocks:
        maps.append(downsample(maps[-1]))
    return maps


def upsample(self, x):
    return self.conv(torch.cat([self.up_p(x), self.up_b(x)], dim=1))


def enlarge_to_image(up, output, x):
    return output(up(x))


@contextmanager
def plainly():
    """`with plainly(): model(x)` computes the networks the plain way."""
    with ExitStack() as changes:
        for owner, name, replacement in (
            (linear, "fusable", lambda x, weight: False),
            (cross_attention, "attention", materialised),
            (swin, "through_blocks", through_blocks),
            (gcunet, "context_chain", chain),
            (glownet, "context_chain", chain),
            (sunet.TokenUNet, "embed", embed),
            (sglownet.SGLOWNet, "context_maps", context_maps),
            (sunet, "enlarge_to_image", enlarge_to_image),
            (gcunet, "enlarge_to_image", enlarge_to_image),
            (DualUpsample, "forward", upsample),
        ):
            changes.enter_context(patch.object(owner, name, replacement))
        yield
