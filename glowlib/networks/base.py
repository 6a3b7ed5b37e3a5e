"""What the four networks share: any image size, noise normalisation, initial weights, mixed precision."""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import nn

from ..errors import KitError
from .config import ModelConfig
from .noise_level import estimate_sigma


def full_precision(x: torch.Tensor) -> AbstractContextManager:
    """Context manager that disables autocast on x's device, for layers that read or write pixel values."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Extend x (batch, channels, H, W) at the right and bottom until both sides are multiples of `multiple`.

    By reflection, or by repeating the edge where x is too small to reflect.
    """
    for axis, sides in ((-1, (0, 1, 0, 0)), (-2, (0, 0, 0, 1))):
        missing = -x.shape[axis] % multiple
        if missing:
            mode = "reflect" if missing < x.shape[axis] else "replicate"
            x = F.pad(x, [missing * side for side in sides], mode)
    return x


NORMAL_LEVEL = 25  # σ, 0 to 255 scale, that noise normalisation scales every image to
LEAST_LEVEL = 2  # smallest estimate that is used: images without noise would be scaled without bound


def given_sigma(sigma: float | torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The noise level given by the caller as a tensor, () or (batch,) or (1,); KitError unless positive and finite."""
    try:
        sigma = torch.as_tensor(sigma, dtype=image.dtype, device=image.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise KitError(f"sigma is a number, or one for each image of the batch, not {sigma!r}") from error
    if sigma.shape not in ((), (1,), (image.shape[0],)):
        raise KitError(f"sigma is one number, or {image.shape[0]} for this batch, not a tensor {tuple(sigma.shape)}")
    # A graph that is being traced cannot depend on values.
    if not torch.compiler.is_compiling() and not ((sigma > 0) & sigma.isfinite()).all():
        raise KitError(f"sigma is above 0 and finite, on the 0 to 255 scale, not {sigma.tolist()}")
    return sigma


class Denoiser(nn.Module):
    """Base class: a network's `restore` takes sides that are multiples of 8p; `forward` takes any side.

    With `noise_normalisation` the image is scaled around 1/2 so that its noise has the level NORMAL_LEVEL, and the
    result is scaled back. The network then follows the scale of an image by construction (normalisation equivariance,
    Herbreteau et al., NeurIPS 2023) and works at one noise level.
    """

    name: str  # what `create_model` calls the network
    full_precision_layers = ("conv_first", "patch_embed", "up", "output")  # layers that read or write pixel values

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config

    def forward(self, image: torch.Tensor, sigma: float | torch.Tensor | None = None) -> torch.Tensor:
        """Restore a batch of images.

        Args:
            image: (batch, 3 or 1, H, W), any H and W, clean values in [0, 1]; one channel is repeated to three.
            sigma: noise level on the 0 to 255 scale, one number or (batch,), in place of the estimate; only for a
                network with noise normalisation.

        Returns:
            (batch, 3, H, W), not clipped.

        Raises:
            KitError: the shape is another, the values are no floating-point numbers, or sigma does not fit.
        """
        if image.ndim != 4 or image.shape[1] not in (1, 3):
            raise KitError(f"expected an image batch (batch, 3 or 1, H, W), not {tuple(image.shape)}")
        if not image.is_floating_point():
            raise KitError(f"expected floating-point values, clean ones in [0, 1], not {image.dtype}: divide by 255")
        height, width = image.shape[-2:]
        image = image.expand(-1, 3, -1, -1)
        x, scale = self.normalised(image, sigma)
        x = pad_to_multiple(x, 8 * self.config.patch_size)
        restored = self.restore(x.to(next(self.parameters()).dtype))[..., :height, :width].to(image.dtype)
        if self.config.noise_normalisation:
            restored = restored / scale + (0 if self.config.global_residual else 0.5)
        return restored + image if self.config.global_residual else restored

    def normalised(self, image, sigma=None):
        """(scale · (image - 0.5), scale), scale (batch, 1, 1, 1); (image, None) without noise normalisation."""
        if not self.config.noise_normalisation:
            if sigma is not None:
                raise KitError(f"this {self.name} has no noise normalisation: leave sigma out")
            return image, None
        sigma = estimate_sigma(image).clamp(min=LEAST_LEVEL) if sigma is None else given_sigma(sigma, image)
        scale = (NORMAL_LEVEL / sigma).expand(image.shape[0])[:, None, None, None]
        return (image - 0.5) * scale, scale

    def restore(self, image: torch.Tensor) -> torch.Tensor:
        """The network itself: (batch, 3, H, W), H and W multiples of 8p -> the same shape."""
        raise NotImplementedError

    def mixed_precision(self, dtype: torch.dtype = torch.bfloat16) -> "Denoiser":
        """Cast all layers but the first and last to `dtype`, in place, and return the network.

        The layers that read or write pixel values stay in float32, because bfloat16 cannot represent low noise in them.
        """
        for name, layer in self.named_children():
            if name not in self.full_precision_layers:
                layer.to(dtype)
        return self

    def to_inner(self, x: torch.Tensor) -> torch.Tensor:
        """Cast x to the dtype of the layers that `mixed_precision` casts."""
        inner = (p for name, p in self.named_parameters() if name.split(".")[0] not in self.full_precision_layers)
        return x.to(next(inner).dtype)

    def initialise(self) -> None:
        """Linear layers: truncated normal weights (0.02), zero bias; convolutions keep PyTorch's default."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


def parameter_count(model: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in model.parameters())
