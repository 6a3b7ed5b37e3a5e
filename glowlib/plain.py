"""The yardstick of the speed measurements: the same networks and weights, computed the plain way.

Attention is materialised, its bias and mask are made anew in every block, each context block writes its map,
and the up-samples are as published. The outputs are equal up to rounding.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F

from . import gcunet, glownet, swin
from .upsample import DualUpsample


def materialised_attention(q, k, v, bias=None, scale=None):
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ v


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


def upsample(self, x):
    x = torch.cat([self.up_p(x), self.up_b(x)], dim=1)
    return self.conv(x)


@contextmanager
def plainly():
    """`with plainly(): model(x)` computes the networks the plain way."""
    with ExitStack() as changes:
        for owner, name, replacement in (
            (F, "scaled_dot_product_attention", materialised_attention),
            (swin, "window_mask", swin.window_mask.__wrapped__),
            (gcunet, "context_chain", chain),
            (glownet, "context_chain", chain),
            (DualUpsample, "forward", upsample),
        ):
            changes.enter_context(patch.object(owner, name, replacement))
        yield
