"""Attention by the fastest way a device, a dtype and a length allow.

Either PyTorch's fused kernel, which does not materialise the matrix of logits in memory
(FlashAttention, https://arxiv.org/abs/2205.14135), or matrix products where those are faster.
"""

import torch
import torch.nn.functional as F

from ..attention import attention as materialised
from ..base import full_precision

VECTOR = 16  # SIMD width: values that the fused kernel handles at once


def in_place(q, k, v, bias=None, scale=None):
    """Inference-only variant that reuses one buffer for logits and weights: allocating another takes as long as the
    arithmetic in it.
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    matrix = q @ k.transpose(-2, -1)
    matrix = matrix.mul_(scale) if bias is None else torch.add(bias, matrix, alpha=scale, out=matrix)
    return torch.softmax(matrix, dim=-1, out=matrix) @ v


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """softmax(scale · q kᵀ + bias) v: q, k, v (batch, heads, tokens, d); scale is d^-0.5 if None."""
    if torch.compiler.is_exporting():  # other runtimes have kernels of their own for these products
        return materialised(q, k, v, bias, scale)
    d, tokens, training = q.shape[-1], q.shape[2], torch.is_grad_enabled()
    bias = None if bias is None else bias.to(q.dtype)
    on_cpu = q.device.type == "cpu"
    bfloat16 = on_cpu and q.dtype == torch.bfloat16
    # The CPU's fused kernel is slow in bfloat16, and has no gradient of the bias.
    if on_cpu and tokens <= 256 and (bfloat16 or (training and bias is not None and bias.requires_grad)):
        return (materialised if training else in_place)(q, k, v, bias, scale)
    if bfloat16 and tokens <= 1024 and training:
        with full_precision(q):  # the fused kernel's backward pass is slower still in bfloat16
            return attention(q.float(), k.float(), v.float(), bias, scale).to(q.dtype)
    # Heads whose size is not a multiple of the SIMD width are zero-padded where that is faster.
    if d % VECTOR and (tokens > 256 or q.element_size() < 4):
        scale = d**-0.5 if scale is None else scale
        q, k, v = (F.pad(t, (0, -d % VECTOR)) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias, scale=scale)[..., :d]
