"""What the four networks share: padding to any size, initial weights, the layers that keep full precision."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import nn

from ..errors import KitError
from .noise_level import estimate_sigma


def full_precision(x):
    """Autocast switched off: what touches the picture itself keeps its last digits, which low noise lies in."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def pad_to_multiple(x, multiple):
    """Extend x (batch, channels, H, W) at the right and bottom: by reflection, or by its edge if too small."""
    for axis, sides in ((-1, (0, 1, 0, 0)), (-2, (0, 0, 0, 1))):
        missing = -x.shape[axis] % multiple
        if missing:
            mode = "reflect" if missing < x.shape[axis] else "replicate"
            x = F.pad(x, [missing * side for side in sides], mode)
    return x


NORMAL_LEVEL = 25  # σ, 0 to 255 scale, that noise normalisation scales every image to
LEAST_LEVEL = 2  # an estimate below it is taken as this: images without noise would be scaled without bound


class Denoiser(nn.Module):
    """A network whose `restore` takes sides that are multiples of 8p, made to take any side.

    forward: (batch, 3 or 1, H, W), clean values in [0, 1] -> (batch, 3, H, W), not clipped.
    One channel is repeated to three. sigma: the noise level (0 to 255 scale), one number or one for each image of the
    batch, in place of the estimate; only for a network with noise normalisation.
    """

    name = None  # what create_model calls it
    full_precision_layers = ("conv_first", "patch_embed", "up", "output")  # layers that see or make its pixels

    def __init__(self, config):
        super().__init__()
        self.config = config

    def forward(self, image, sigma=None):
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise ValueError(f"expected an image batch (batch, 3 or 1, H, W), not {tuple(image.shape)}")
        height, width = image.shape[-2:]
        image = image.expand(-1, 3, -1, -1)
        x, scale = self.normalised(image, sigma)
        x = pad_to_multiple(x, 8 * self.config.patch_size)
        restored = self.restore(x.to(next(self.parameters()).dtype))[..., :height, :width].to(image.dtype)
        if self.config.noise_normalisation:
            restored = restored / scale + (0 if self.config.global_residual else 0.5)
        return restored + image if self.config.global_residual else restored

    def normalised(self, image, sigma=None):
        """(scale · (image - 0.5), scale), so that the noise has the level NORMAL_LEVEL; or the image as it is."""
        if not self.config.noise_normalisation:
            if sigma is not None:
                raise KitError(f"this {self.name} is not told the noise level: leave sigma out")
            return image, None
        if sigma is None:
            sigma = estimate_sigma(image).clamp(min=LEAST_LEVEL)
        else:
            sigma = torch.as_tensor(sigma, dtype=image.dtype, device=image.device)
        scale = (NORMAL_LEVEL / sigma).expand(image.shape[0])[:, None, None, None]
        return (image - 0.5) * scale, scale

    def mixed_precision(self, dtype=torch.bfloat16):
        """Lower the weights inside, in place, to half their memory; returns the model.

        The layers that touch the picture keep theirs, and compute in them: low noise lies in the last digits.
        """
        for name, layer in self.named_children():
            if name not in self.full_precision_layers:
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


def parameter_count(model: nn.Module):
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters())
