"""Linear layers fused with the operation that follows: oneDNN's kernels where they apply, PyTorch's own elsewhere."""

import torch
import torch.nn.functional as F
from torch import nn


def fusable(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether oneDNN's fused kernels apply: they have no backward pass, and need AVX2, in bfloat16 AVX-512."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
        and (x.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """x (..., d) times a matrix (k, d), plus a bias (k,): (..., k)."""
    if fusable(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def linear_gelu(x: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    """GELU(layer(x)), exact."""
    if fusable(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "none")
    return F.gelu(layer(x))


def linear_prelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, prelu: nn.PReLU) -> torch.Tensor:
    """prelu(linear(x, weight, bias)), `prelu` with one slope for all channels."""
    if fusable(x, weight):
        slope = [prelu.weight.item()]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "leaky_relu", slope, "")
    return prelu(linear(x, weight, bias))


def linear_add(x: torch.Tensor, layer: nn.Linear, other: torch.Tensor) -> torch.Tensor:
    """layer(x) + other."""
    if fusable(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, layer.weight, layer.bias, "add")
    return layer(x) + other
