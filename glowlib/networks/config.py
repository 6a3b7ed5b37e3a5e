"""The options of a network: data alone, from which the modules are built elsewhere."""

import math
from dataclasses import dataclass

from ..errors import KitError

FUSIONS = ("cross", "gated", "posenc", "gated_posenc", "rope")  # built in cross_attention.py


@dataclass(frozen=True)
class ModelConfig:
    """The options of a network. A network ignores what it has no part for (SUNet has no context)."""

    embed_dim: int = 96  # C; stage i has C·2^i channels
    patch_size: int = 4  # p: pixels per token side at the first stage, 2 or 4
    window_size: int = 8  # tokens per window side
    depths: tuple = (8, 8, 8, 8)  # blocks in each encoder stage; the decoder mirrors them
    num_heads: tuple = (8, 8, 8, 8)  # attention heads in each stage, windows and cross-attention alike
    qk_scale: float | None = 8  # the published quirk: 8 *is* the scale; None means head_dim^-0.5
    drop_path_rate: float = 0.1  # stochastic depth, rising linearly over the encoder's blocks
    context_ratio: float = 0.25  # hidden channels of a context block, as a share of its channels
    context_pooling: str = "att"  # "att" (softmax-weighted) or "avg"
    context_fusion: tuple = ("add",)  # "mul", "add" or both
    fusion: str = "cross"  # cross-attention between tokens and context, one of FUSIONS, see cross_attention.py
    denoising_head: bool = False  # squeeze-excitation head at the bottleneck
    global_residual: bool = False  # predict the noise: output + input; needs C >= 3p²
    noise_normalisation: bool = False  # scale the input so that its noise always has the same level
    context_blocks: bool = True  # a control: False leaves out the global context blocks
    attention_reach: int | None = None  # a control: side of the windows, in tokens, that cross-attention keeps to
    training_size: int = 256  # image side the windows are planned for; any size can be fed

    def __post_init__(self):
        for name in ("depths", "num_heads", "context_fusion"):  # lists come from YAML and JSON
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        heads_fit = len(self.num_heads) == 4 and all(
            type(h) is int and h > 0 and self.embed_dim * 2**i % h == 0 for i, h in enumerate(self.num_heads)
        )
        checks = {
            "patch_size is 2 or 4": self.patch_size in (2, 4),
            "embed_dim is an even number of at least 2": self.embed_dim >= 2 and self.embed_dim % 2 == 0,
            "depths are four numbers of at least 1": len(self.depths) == 4
            and all(type(d) is int and d > 0 for d in self.depths),
            "num_heads are four numbers that divide the stages' channels": heads_fit,
            "window_size is at least 1": self.window_size >= 1,
            "drop_path_rate is in [0, 1)": 0 <= self.drop_path_rate < 1,
            "context_ratio is in (0, 1]": 0 < self.context_ratio <= 1,
            'context_pooling is "att" or "avg"': self.context_pooling in ("att", "avg"),
            'context_fusion holds "mul", "add" or both': 0 < len(self.context_fusion) == len(set(self.context_fusion))
            and set(self.context_fusion) <= {"mul", "add"},
            f"fusion is one of {', '.join(FUSIONS)}": self.fusion in FUSIONS,
            "qk_scale is None or a finite number": self.qk_scale is None or math.isfinite(self.qk_scale),
            "attention_reach is None or a whole number of at least 1": self.attention_reach is None
            or (type(self.attention_reach) is int and self.attention_reach >= 1),
            f"training_size is a multiple of {8 * self.patch_size}": self.training_size >= 8 * self.patch_size
            and self.training_size % (8 * self.patch_size) == 0,
        }
        for rule, holds in checks.items():
            if not holds:
                raise KitError(f"{rule}, but the options are {self}")
