"""Optimised forms of the networks' layers: the same outputs up to rounding, with fewer operations or less memory.

Each plain `forward` that has one begins with `if fast.enabled(): return fast.…`. results/speed/ideas.md lists what each
form gains. Tensors that depend on sizes alone are cached here, and nowhere else.

switch.py (`enabled`, `disabled`, `traced`), linear.py (oneDNN's fused linear layers), attention.py (attention without
its matrix in memory), windows.py (Swin stages), context.py (global context), upsample.py, embedding.py, recompute.py
(activation checkpointing of these forms).
"""

from .attention import attention
from .context import context_chain, context_maps
from .embedding import embed
from .linear import linear, linear_add
from .switch import disabled, enabled, traced
from .upsample import dual_upsample, upsample_to_image
from .windows import swin_stage

__all__ = [
    "attention",
    "context_chain",
    "context_maps",
    "disabled",
    "dual_upsample",
    "embed",
    "enabled",
    "linear",
    "linear_add",
    "swin_stage",
    "traced",
    "upsample_to_image",
]
