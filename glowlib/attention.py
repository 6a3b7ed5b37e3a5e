"""Multi-head attention in one kernel, without its matrix in memory."""

import torch.nn.functional as F

VECTOR = 16  # values that the fused kernels take at once


def attention(q, k, v, bias=None, scale=None):
    """softmax(scale·q kᵀ + bias) v: q, k, v (batch, heads, tokens, d); scale is d^-0.5 if None.

    Where vectors cut off in the middle cost more than copies with zeros beside each head, zeros are put there.
    """
    d = q.shape[-1]
    if d % VECTOR and (q.shape[2] > 256 or q.element_size() < 4):
        scale = d**-0.5 if scale is None else scale
        q, k, v = (F.pad(t, (0, -d % VECTOR)) for t in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype), scale=scale)
    return x[..., :d]
