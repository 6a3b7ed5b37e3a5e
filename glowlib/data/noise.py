"""Gaussian noise under the field's two protocols, the same for every method, order and device."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
import torch

from ..errors import KitError, whole_number
from .images import ImageLike, to_tensor

PROTOCOLS = ("float", "8bit")


def to_8bit_by_truncation(x: torch.Tensor) -> torch.Tensor:
    """What the paper stores: clipped to [0, 1], times 255, fraction dropped; back in [0, 1].

    The small offset keeps exact 8-bit values, which float32 may put just below their level.
    """
    return (x.clamp(0, 1) * 255 + 1e-4).floor() / 255


def gaussian(height: int, width: int, sigma: float, seed: int, name: str) -> torch.Tensor:
    """Standard normal noise (3, height, width), float32, drawn on the CPU from (seed, file name, σ) alone."""
    key = f"{seed}|{PurePath(name).name}|{float(sigma):g}".encode("utf-8", "surrogateescape")
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7], "big"))
    noise = torch.randn(height, width, 3, generator=generator, dtype=torch.float32, device="cpu")
    return noise.permute(2, 0, 1)


def add_noise(
    image: ImageLike, sigma: float, *, seed: int, name: str | Sequence[str], protocol: str = "float"
) -> np.ndarray | torch.Tensor:
    """Add Gaussian noise to a clean image.

    Args:
        image: as `glowlib.data.images.to_tensor` takes it, clean values in [0, 1].
        sigma: the level of the noise, 0 to 255 scale, at least 0.
        seed: a whole number.
        name: the image's canonical file name ("kodim01.png"), a list of names for a batch; folders in it do not count.
        protocol: "float" (x + σ/255·n, neither clipped nor rounded: KAIR, Restormer) or "8bit" (the same, clipped to
            [0, 1] and truncated to 8 bits: the paper, section on experiments).
    Returns:
        A tensor for a tensor, on its device; a float array for an array or a PIL image, H×W for grey (one channel of
        the noise), without alpha.
    Raises:
        KitError: for a negative σ, an unknown protocol, a seed that is no whole number, or another number of names.
    """
    if protocol not in PROTOCOLS:
        raise KitError(f"unknown noise protocol {protocol!r}; known are: {', '.join(PROTOCOLS)}")
    if not 0 <= float(sigma) < float("inf"):
        raise KitError(f"the noise level must be a number from 0 up (0 to 255 scale), not {sigma}")
    seed = whole_number(seed, -math.inf, "seed is a whole number")
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
    else:
        grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
    return noisy[0, 0].numpy() if grey else noisy[0].permute(1, 2, 0).numpy()
