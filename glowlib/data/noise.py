"""Gaussian noise under the field's two protocols, the same for every method, order and device."""

import hashlib
from pathlib import PurePath

import numpy as np
import torch

from ..errors import KitError
from .images import to_tensor

PROTOCOLS = ("float", "8bit")


def to_8bit_by_truncation(x):
    """What the paper stores: clipped to [0, 1], times 255, fraction dropped; back in [0, 1].

    The small offset keeps exact 8-bit values, which float32 may put a hair below their level.
    """
    return (x.clamp(0, 1) * 255 + 1e-4).floor() / 255


def gaussian(height, width, sigma, seed, name):
    """Standard normal noise (3, height, width), float32, drawn on the CPU from (seed, file name, σ) alone."""
    key = f"{seed}|{PurePath(name).name}|{float(sigma):g}".encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
    return torch.randn(height, width, 3, generator=generator).permute(2, 0, 1)


def add_noise(image, sigma, *, seed, name, protocol="float"):
    """Add Gaussian noise of level sigma (0 to 255 scale) to a clean image.

    image: as `glowlib.data.images.to_tensor` takes it, clean values in [0, 1]. seed: an int. name: the image's
    canonical file name ("kodim01.png"); a list of names for a batch; folders in it do not count.
    protocol: "float" (x + σ/255·n, neither clipped nor rounded: KAIR, Restormer) or "8bit"
    (the same, clipped to [0, 1] and truncated to 8 bits: the paper, section on experiments).
    Returns a tensor for a tensor, on its device; a float array for an array or a PIL image, H×W for
    grey (one channel of the noise), without alpha. Raises ValueError for a negative σ or an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise KitError(f"unknown noise protocol {protocol!r}; known are: {', '.join(PROTOCOLS)}")
    if not 0 <= float(sigma) < float("inf"):
        raise KitError(f"the noise level must be a number from 0 up (0 to 255 scale), not {sigma}")
    tensor, _ = to_tensor(image)
    names = [name] * len(tensor) if isinstance(name, str) else list(name)
    if len(names) != len(tensor):
        raise KitError(f"{len(tensor)} images need as many names, not {len(names)}")
    noise = torch.stack([gaussian(*tensor.shape[-2:], sigma, seed, n) for n in names])
    noisy = tensor + float(sigma) / 255 * noise.to(tensor)
    if protocol == "8bit":
        noisy = to_8bit_by_truncation(noisy)
    if isinstance(image, torch.Tensor):
        noisy = noisy[:, : image.shape[-3]]
        return noisy if image.ndim == 4 else noisy[0]
    if isinstance(image, np.ndarray):
        grey = image.ndim == 2 or image.shape[2] < 3
    else:  # one channel on its way into to_tensor
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
    return noisy[0, 0].numpy() if grey else noisy[0].permute(1, 2, 0).numpy()
