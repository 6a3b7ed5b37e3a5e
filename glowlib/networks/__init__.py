"""Patch-based Neural Networks with Global Context Integration: the paper's networks; `create_model` builds one.

In reading order: config.py (the options), base.py (what all networks share), noise_level.py (noise normalisation);
attention.py, windows.py, swin.py (patches); global_context.py, cross_attention.py (context); upsample.py,
denoising_head.py; sunet.py, gcunet.py, glownet.py, sglownet.py (one network a file); convert.py (published
checkpoints), pretrained.py (shipped models and weights files). Each `forward` is the paper's figure in plain PyTorch;
fast/ computes the same with fewer operations, and `fast.disabled()` switches it off.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from torch import nn

from ..errors import KitError
from .config import ModelConfig
from .gcunet import GCUNet
from .glownet import GLOWNet
from .sglownet import SGLOWNet
from .sunet import SUNet

NETWORKS = {network.name: network for network in (SUNet, GCUNet, GLOWNet, SGLOWNet)}

# The published configurations (paper, section on experiments; sizes as released).
PUBLISHED = {
    "sunet": ModelConfig(),
    "gcunet": ModelConfig(context_ratio=0.125, context_pooling="avg"),
    "glownet": ModelConfig(context_fusion=("mul", "add"), fusion="gated_posenc"),
    "sglownet": ModelConfig(),
}
OPTIONS = tuple(field.name for field in fields(ModelConfig))


def require_known(kind: str, name: str, names: Sequence[str]) -> None:
    """Raise a KitError that lists `names` unless `name` is one of them."""
    if name not in names:
        close = get_close_matches(str(name), names, 1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise KitError(f"unknown {kind} {name!r}{hint}; known are: {', '.join(names)}")


def create_model(name: str, **options: Any) -> nn.Module:
    """Build a network with initial weights.

    Args:
        name: "sunet", "gcunet", "glownet" or "sglownet".
        options: fields of `ModelConfig`; the others take the value of the published configuration. Every network
            accepts every option, so that one set of options describes all four.

    Returns:
        A module in training mode: image (batch, 3 or 1, H, W), clean values in [0, 1], any H and W -> (batch, 3, H, W).

    Raises:
        KitError: a ValueError, for an unknown name or option, and for options that do not fit together.
    """
    require_known("network", name, list(NETWORKS))
    for option in options:
        require_known("option", option, OPTIONS)
    return NETWORKS[name](replace(PUBLISHED[name], **options))
