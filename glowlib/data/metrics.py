"""PSNR and SSIM, each under a named protocol."""

import numpy as np
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from ..data.images import to_array
from ..errors import KitError

SSIM_PROTOCOLS = ("grey", "rgb")


def to_scored(clean, restored):
    """Both as float64 arrays H×W×3 in [0, 1]; the restored one clipped and rounded to 8 bits first."""
    clean, restored = to_array(clean), to_array(restored)
    if clean.shape != restored.shape:
        raise KitError(f"cannot compare images of {clean.shape[:2]} and {restored.shape[:2]} pixels")
    return clean, np.rint(restored.clip(0, 1) * 255) / 255


def psnr(clean, restored):
    """Peak signal-to-noise ratio in dB over RGB, no border crop, peak 1; infinite for equal images.

    clean: [0, 1]; restored: clipped to it and rounded to 8 bits first; any one image that
    `glowlib.data.images.to_tensor` takes. Raises ValueError for different sizes or a batch.
    """
    clean, restored = to_scored(clean, restored)
    error = np.mean((clean - restored) ** 2)
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def ssim(clean, restored, protocol="grey"):
    """Structural similarity, at most 1 (Wang et al. 2004).

    protocol: "grey" (this paper: rgb2gray, 7×7 uniform window, scikit-image's defaults) or "rgb" (KAIR: each
    channel, 11×11 Gaussian window of σ 1.5, mean over channels). Images as for `psnr`,
    at least 7 (grey) or 11 (rgb) pixels a side.
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
