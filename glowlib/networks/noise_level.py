"""Estimate the level of white Gaussian noise in an image, so that a network can work at one noise level.

The finest diagonal detail of a Haar wavelet is mostly noise, and the median of its absolute value resists edges
(Donoho and Johnstone, Biometrika 1994). The detail of differences between colour channels resists texture as well:
natural images are nearly grey at the finest scale, white noise is not.
"""

import torch

MAD = 0.6745  # median of |x| for a standard normal x
LARGEST = 1 << 20  # 2×2 blocks that an estimate looks at; those of larger images are sampled evenly
CHROMA = ((1, 0, -1), (1, -2, 1))  # two directions that grey has no part in


def diagonal_detail(x: torch.Tensor) -> torch.Tensor:
    """Haar detail (a - b - c + d)/2 of 2×2 blocks: (batch, 3, H, W) -> (batch, 3, blocks), as wide as the noise."""
    height, width = (n // 2 * 2 for n in x.shape[-2:])
    step = max(1, round((height * width / 4 / LARGEST) ** 0.5))
    rows, columns = slice(0, height, 2 * step), slice(0, width, 2 * step)
    below, right = slice(1, height, 2 * step), slice(1, width, 2 * step)
    detail = x[..., rows, columns] - x[..., below, columns] - x[..., rows, right] + x[..., below, right]
    return detail.flatten(2) / 2


def estimate_sigma(image: torch.Tensor) -> torch.Tensor:
    """Noise level of each image of a batch.

    Args:
        image: (batch, 3, H, W), H and W at least 2, clean values in [0, 1].
    Returns:
        σ on the 0 to 255 scale, (batch,). Noise is taken to be white, Gaussian and of one level in all channels;
        an image whose channels are equal is taken as grey, with one noise for all three; there, fine texture
        raises the estimate.
    """
    detail = diagonal_detail(image)
    chroma = torch.nn.functional.normalize(detail.new_tensor(CHROMA)) @ detail
    every, colour = (255 / MAD * d.flatten(1).abs().median(dim=1).values for d in (detail, chroma))
    grey = chroma.abs().amax((1, 2)) < 1e-4
    return torch.where(grey, every, torch.minimum(every, colour))
