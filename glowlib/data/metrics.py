"""PSNR and SSIM, each under a named protocol."""

import warnings

import numpy as np
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from ..errors import KitError
from .images import LARGEST, ImageLike, to_array

SSIM_PROTOCOLS = ("grey", "rgb")


def to_scored(clean: ImageLike, restored: ImageLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays H×W×3 in [0, 1]; the restored one clipped and rounded to 8 bits first."""
    clean, restored = to_array(clean), to_array(restored, any_range=True)
    if clean.shape != restored.shape:
        raise KitError(f"cannot compare images of {clean.shape[:2]} and {restored.shape[:2]} pixels")
    if np.abs(restored).max() > LARGEST:  # a network at the start of its training may do that
        warnings.warn(f"restored values reach {np.abs(restored).max():g}; they are clipped to [0, 1]", stacklevel=3)
    return clean, np.rint(restored.clip(0, 1) * 255) / 255


def psnr(clean: ImageLike, restored: ImageLike) -> float:
    """Peak signal-to-noise ratio over RGB, no border crop, peak 1.

    Args:
        clean: any one image that `glowlib.data.images.to_tensor` takes, values in [0, 1].
        restored: the same kind or another, of the same size; it is clipped and rounded to 8 bits first.
    Returns:
        dB; infinite for equal images.
    Raises:
        KitError: for different sizes, or a batch.
    """
    clean, restored = to_scored(clean, restored)
    error = np.mean((clean - restored) ** 2)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(clean: ImageLike, restored: ImageLike, protocol: str = "grey") -> float:
    """Structural similarity (Wang et al., IEEE Transactions on Image Processing 2004).

    Args:
        clean, restored: as for `psnr`, at least 7 ("grey") or 11 ("rgb") pixels a side.
        protocol: "grey" (this paper: rgb2gray, 7×7 uniform window, scikit-image's defaults) or "rgb" (KAIR: each
            channel, 11×11 Gaussian window of σ 1.5, mean over channels).
    Returns:
        At most 1.
    Raises:
        KitError: for an unknown protocol, different or too small sizes, or a batch.
    """
    if protocol not in SSIM_PROTOCOLS:
        raise KitError(f"unknown SSIM protocol {protocol!r}; known are: {', '.join(SSIM_PROTOCOLS)}")
    clean, restored = to_scored(clean, restored)
    window = 7 if protocol == "grey" else 11
    if min(clean.shape[:2]) < window:
        raise KitError(f"SSIM {protocol!r} needs at least {window} pixels a side, not {clean.shape[:2]}")
    if protocol == "grey":
        return float(structural_similarity(rgb2gray(clean), rgb2gray(restored), data_range=1))
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(clean, restored, win_size=11, channel_axis=2, data_range=1, **gaussian))
