"""How far a network sees: the gradient of one output pixel with respect to every input pixel."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from ..data.images import to_array
from ..data.noise import add_noise


def reached(net: nn.Module, clean: np.ndarray, sigma: float, seed: int = 0) -> torch.Tensor:
    """Influence of every input pixel on the middle pixel of a network's output.

    Args:
        net: in eval mode.
        clean: an image H×W×3; `float` noise is added.
        sigma: noise level, 0 to 255 scale.
        seed: of the noise.
    Returns:
        (H, W), float64: the sum of |d output / d input| over the channels of both; 0: no effect.
    """
    noisy = add_noise(to_array(clean), sigma, seed=seed, name="influence")
    image = torch.from_numpy(noisy).permute(2, 0, 1)[None].double().requires_grad_()
    height, width = image.shape[-2:]
    weights = {parameter: parameter.dtype for parameter in net.parameters()}
    net.double()
    try:
        pixel = net(image)[0, :, height // 2, width // 2]
        gradients = [torch.autograd.grad(value, image, retain_graph=True)[0] for value in pixel]
    finally:
        net.to(next(iter(weights.values())))
    return torch.stack(gradients).abs().sum((0, 1, 2))


def beyond(influence: torch.Tensor, radii: Sequence[float]) -> list[float]:
    """Share of the total influence that comes from pixels further than each radius from the middle pixel.

    Args:
        influence: (H, W), of `reached`.
        radii: pixels.
    """
    height, width = influence.shape
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = torch.hypot(rows[:, None].double(), columns[None].double())
    return [float(influence[distance > radius].sum() / influence.sum()) for radius in radii]
