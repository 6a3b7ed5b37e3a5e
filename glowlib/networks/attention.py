"""Scaled dot-product attention. Attention Is All You Need, https://arxiv.org/abs/1706.03762, section 3.2.1."""

import torch


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor | None = None, scale: float | None = None
) -> torch.Tensor:
    """softmax(scale · q kᵀ + bias) v.

    Args:
        q, k, v: queries (..., heads, queries, d), keys and values (..., heads, keys, d).
        bias: added to the logits; broadcasts to (..., heads, queries, keys).
        scale: None means d^-0.5.

    Returns:
        (..., heads, queries, d).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = (q * scale) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(dim=-1).to(v.dtype) @ v
