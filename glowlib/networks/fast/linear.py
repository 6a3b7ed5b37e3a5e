"""Linear layers together with what follows them: oneDNN's fused kernels where they serve, PyTorch's own elsewhere."""

import torch
import torch.nn.functional as F
from torch import nn


def fusable(x, weight):
    """Whether oneDNN's kernels take these: they have no gradient, and want AVX2 at least."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    )


def linear(x, weight, bias=None):
    """x (…, d) times a matrix (k, d), plus a bias (k): (…, k)."""
    if fusable(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    def forward(self, x):
        return linear(x, self.weight, self.bias)


def linear_gelu(x, layer):
    """GELU(layer(x)), exact."""
    if fusable(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise(x, layer.weight, layer.bias, "gelu", [], "none")
    return F.gelu(layer(x))


def linear_prelu(x, weight, bias, bend):
    """bend(linear(x, weight, bias)), `bend` a PReLU with one slope for all channels."""
    if fusable(x, weight):
        slope = [bend.weight.item()]
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "leaky_relu", slope, "")
    return bend(linear(x, weight, bias))


def linear_add(x, layer, other):
    """layer(x) + other."""
    if fusable(x, layer.weight):
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, layer.weight, layer.bias, "add")
    return layer(x) + other
