"""Multi-head attention: in one kernel without its matrix in memory, or from matrix products where those are faster."""

import torch
import torch.nn.functional as F

from ..base import full_precision

VECTOR = 16  # values that the fused kernels take at once


def materialised(q, k, v, bias=None, scale=None):
    """softmax(scale·q kᵀ + bias) v from its parts; the shapes of `attention`."""
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1) @ v


def in_place(q, k, v, bias=None, scale=None):
    """The same without gradient, in one matrix: fresh memory costs as much as what is computed in it."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    matrix = q @ k.transpose(-2, -1)
    matrix = matrix.mul_(scale) if bias is None else torch.add(bias, matrix, alpha=scale, out=matrix)
    return torch.softmax(matrix, dim=-1, out=matrix) @ v


def attention(q, k, v, bias=None, scale=None):
    """softmax(scale·q kᵀ + bias) v: q, k, v (batch, heads, tokens, d); scale is d^-0.5 if None.

    Where vectors cut off in the middle cost more than copies with zeros beside each head, zeros are put there.
    """
    d, tokens, training = q.shape[-1], q.shape[2], torch.is_grad_enabled()
    bias = None if bias is None else bias.to(q.dtype)
    on_cpu = q.device.type == "cpu"
    lower = on_cpu and q.dtype == torch.bfloat16
    # The CPU's fused kernel is slow in bfloat16, and knows no gradient of the bias.
    if on_cpu and tokens <= 256 and (lower or (training and bias is not None and bias.requires_grad)):
        return (materialised if training else in_place)(q, k, v, bias, scale)
    if lower and tokens <= 1024 and training:
        with full_precision(q):  # slower still on the way back
            return attention(q.float(), k.float(), v.float(), bias, scale).to(q.dtype)
    if d % VECTOR and (tokens > 256 or q.element_size() < 4):
        scale = d**-0.5 if scale is None else scale
        q, k, v = (F.pad(t, (0, -d % VECTOR)) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)[..., :d]
