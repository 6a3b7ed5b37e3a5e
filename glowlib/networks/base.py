"""What the four networks share: their options, padding to any size, initial weights."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import nn

from ..errors import KitError
from .cross_attention import FUSIONS
from .denoising_head import DenoisingHead
from .swin import swin_blocks


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
    fusion: str = "cross"  # cross-attention between tokens and context, see glowlib.fusion
    denoising_head: bool = False  # squeeze-excitation head at the bottleneck
    global_residual: bool = False  # predict the noise: output + input; needs C >= 3p²
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
            f"training_size is a multiple of {8 * self.patch_size}": self.training_size >= 8 * self.patch_size
            and self.training_size % (8 * self.patch_size) == 0,
        }
        for rule, holds in checks.items():
            if not holds:
                raise KitError(f"{rule}, but the options are {self}")

    def stage(self, i):
        """Arguments of `swin_blocks` for encoder stage i: width, heads, window, shift, scale, drop-path rates."""
        grid = self.training_size // (self.patch_size * 2**i)
        window = min(self.window_size, grid)
        shift = window // 2 if grid > window else 0
        first, blocks = sum(self.depths[:i]), sum(self.depths)
        rates = np.linspace(0, self.drop_path_rate, blocks)[first : first + self.depths[i]].tolist()
        return self.embed_dim * 2**i, self.num_heads[i], window, shift, self.qk_scale, rates

    def swin_blocks(self, i):
        return swin_blocks(*self.stage(i))

    def head(self):
        return DenoisingHead(*self.stage(3)) if self.denoising_head else nn.Identity()


def pad_to_multiple(x, multiple):
    """Extend x (batch, channels, H, W) at the right and bottom: by reflection, or by its edge if too small."""
    for axis, sides in ((-1, (0, 1, 0, 0)), (-2, (0, 0, 0, 1))):
        missing = -x.shape[axis] % multiple
        if missing:
            mode = "reflect" if missing < x.shape[axis] else "replicate"
            x = F.pad(x, [missing * side for side in sides], mode)
    return x


class Denoiser(nn.Module):
    """A network whose `restore` takes sides that are multiples of 8p, made to take any side.

    forward: (batch, 3 or 1, H, W), clean values in [0, 1] -> (batch, 3, H, W), not clipped.
    One channel is repeated to three.
    """

    name = None  # what create_model calls it
    at_the_picture = ("conv_first", "patch_embed", "up", "output")  # layers that see or make its pixels

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, image):
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(f"expected an image batch (batch, 3 or 1, H, W), not {tuple(image.shape)}")
        height, width = image.shape[-2:]
        image = image.expand(-1, 3, -1, -1)
        x = pad_to_multiple(image, 8 * self.config.patch_size)
        restored = self.restore(x.to(next(self.parameters()).dtype))[..., :height, :width].to(image.dtype)
        return restored + image if self.config.global_residual else restored

    def mixed_precision(self, dtype=torch.bfloat16):
        """Lower the weights inside, in place, to half their memory; returns the model.

        The layers that touch the picture keep theirs, and compute in them: low noise lies in the last digits.
        """
        for name, layer in self.named_children():
            if name not in self.at_the_picture:
                layer.to(dtype)
        return self

    def inside(self, x):
        """x in the precision of the weights inside the network."""
        return x.to(self.norm_up.weight.dtype)

    def restore(self, x):
        raise NotImplementedError

    def initialise(self):
        """Linear layers start truncated normal (0.02) with zero bias; convolutions as PyTorch does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        return self
