"""Estimate of the level of white Gaussian noise in an image, for noise normalisation.

The finest diagonal detail of a Haar wavelet is mostly noise, and the median of its absolute value is robust to edges
(Donoho and Johnstone, Biometrika 1994, https://doi.org/10.1093/biomet/81.3.425). In differences between colour channels
it is robust to texture as well: photographs are nearly grey at the finest scale, white noise is not.
"""

import torch
import torch.nn.functional as F

MAD = 0.6745  # median of |x| for a standard normal x
LARGEST = 1 << 20  # number of 2×2 blocks, roughly, that an estimate uses; in larger images they are sampled evenly
CHROMA = ((1, 0, -1), (1, -2, 1))  # two directions of colour space orthogonal to grey


def diagonal_detail(x: torch.Tensor) -> torch.Tensor:
    """Haar detail (a - b - c + d)/2 of 2×2 blocks: (batch, 3, H, W) -> (batch, 3, blocks).

    The factor 1/2 keeps the standard deviation of white noise.
    """
    height, width = (n // 2 * 2 for n in x.shape[-2:])
    step = max(1, round((height * width / 4 / LARGEST) ** 0.5))
    rows, columns = slice(0, height, 2 * step), slice(0, width, 2 * step)
    below, right = slice(1, height, 2 * step), slice(1, width, 2 * step)
    detail = x[..., rows, columns] - x[..., below, columns] - x[..., rows, right] + x[..., below, right]
    return detail.flatten(2) / 2


def estimate_sigma(image: torch.Tensor) -> torch.Tensor:
    """Noise level of each image of a batch: white Gaussian noise, of one level in all channels.

    An image with three equal channels counts as grey, with the same noise in all three; fine texture then raises the
    estimate.

    Args:
        image: (batch, 3, H, W), H and W at least 2, clean values in [0, 1].

    Returns:
        σ on the 0 to 255 scale, (batch,).
    """
    detail = diagonal_detail(image)
    chroma = F.normalize(detail.new_tensor(CHROMA)) @ detail
    every, colour = (255 / MAD * d.flatten(1).abs().median(dim=1).values for d in (detail, chroma))
    grey = chroma.abs().amax((1, 2)) < 1e-4
    return torch.where(grey, every, torch.minimum(every, colour))
