"""The options of a network, as data; the modules are built from them in the other files."""

import math
from dataclasses import dataclass

from ..errors import KitError

FUSIONS = ("cross", "gated", "posenc", "gated_posenc", "rope")  # built in cross_attention.py
SWITCHES = ("denoising_head", "global_residual", "noise_normalisation", "context_blocks")


@dataclass(frozen=True)
class ModelConfig:
    """The options of a network. Options of parts that a network lacks have no effect (SUNet has no context).

    Defaults are those of the published S-GLOWNet (section on experiments). Raises KitError for values that do not fit.
    """

    embed_dim: int = 96  # C; stage i has C·2^i channels
    patch_size: int = 4  # p: pixels per token side at stage 0, 2 or 4
    window_size: int = 8  # tokens per window side
    depths: tuple = (8, 8, 8, 8)  # blocks in each encoder stage; the decoder mirrors them
    num_heads: tuple = (8, 8, 8, 8)  # attention heads in each stage, windows and cross-attention alike
    qk_scale: float | None = 8  # factor of the logits in windows, 8 as published; None means head_dim^-0.5
    drop_path_rate: float = 0.1  # stochastic depth of the last encoder block; rises linearly from 0
    context_ratio: float = 0.25  # hidden channels of a context block, as a share of its channels
    context_pooling: str = "att"  # "att" (softmax-weighted) or "avg"
    context_fusion: tuple = ("add",)  # "mul", "add" or both
    fusion: str = "cross"  # cross-attention of tokens to context, one of FUSIONS
    denoising_head: bool = False  # squeeze-excitation head at the bottleneck
    global_residual: bool = False  # predict the noise: output + input; needs C >= 3p², or tokens cannot carry a patch
    noise_normalisation: bool = False  # scale the input so that its noise has one level, see base.py
    context_blocks: bool = True  # control of the study: False leaves out the global context blocks
    attention_reach: int | None = None  # control: side in tokens of the windows that confine cross-attention
    training_size: int = 256  # image side that decides window sizes and shifts; any size can be restored

    def __post_init__(self) -> None:
        for name in ("depths", "num_heads", "context_fusion"):  # lists come from YAML and JSON
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, list | tuple) else (value,))
        even = whole(self.embed_dim, 2) and self.embed_dim % 2 == 0
        heads_fit = even and all(whole(h, 1) and self.embed_dim * 2**i % h == 0 for i, h in enumerate(self.num_heads))
        side = 8 * self.patch_size if self.patch_size in (2, 4) else 32
        fusions = set(self.context_fusion)
        rules = {
            "patch_size": ("2 or 4", whole(self.patch_size, 2) and self.patch_size in (2, 4)),
            "embed_dim": ("an even whole number of at least 2", even),
            "depths": (
                "four whole numbers of at least 1",
                all(whole(d, 1) for d in self.depths) and len(self.depths) == 4,
            ),
            "num_heads": (
                "four whole numbers that divide the stages' channels",
                heads_fit and len(self.num_heads) == 4,
            ),
            "window_size": ("a whole number of at least 1", whole(self.window_size, 1)),
            "qk_scale": ("None or a finite number", self.qk_scale is None or number(self.qk_scale)),
            "drop_path_rate": ("in [0, 1)", number(self.drop_path_rate) and 0 <= self.drop_path_rate < 1),
            "context_ratio": ("in (0, 1]", number(self.context_ratio) and 0 < self.context_ratio <= 1),
            "context_pooling": ('"att" or "avg"', self.context_pooling in ("att", "avg")),
            "context_fusion": (
                '"mul", "add" or both',
                0 < len(self.context_fusion) == len(fusions) and fusions <= {"mul", "add"},
            ),
            "fusion": (f"one of {', '.join(FUSIONS)}", self.fusion in FUSIONS),
            **{name: ("True or False", isinstance(getattr(self, name), bool)) for name in SWITCHES},
            "attention_reach": (
                "None or a whole number of at least 1",
                self.attention_reach is None or whole(self.attention_reach, 1),
            ),
            "training_size": (
                f"a multiple of {side}",
                whole(self.training_size, side) and self.training_size % side == 0,
            ),
        }
        for name, (rule, holds) in rules.items():
            if not holds:
                raise KitError(f"{name} must be {rule}, not {getattr(self, name)!r}")


def whole(value: object, least: int) -> bool:
    """Whether a value is a whole number, and not below `least`."""
    return type(value) is int and value >= least


def number(value: object) -> bool:
    """Whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)
