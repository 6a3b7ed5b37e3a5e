"""Classical denoisers by scikit-image, each given the noise level, with strengths tuned on training images.

`python -m glowlib tune-classical` tunes them again: for each noise level, the strength with the best mean PSNR on
centre crops of the held-out images of BSD400, so that the comparison with networks is fair.
"""

import argparse
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle, denoise_wavelet

from ..data.datasets import load_dataset
from ..data.images import centre_crop
from ..data.metrics import psnr
from ..data.noise import add_noise
from ..errors import exit_clearly

FILE = Path(__file__).with_name("classical.yaml")
SIGMAS = (5, 10, 15, 25, 30, 50)


def wavelet(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """BayesShrink wavelet thresholding (Chang et al. 2000)."""
    return denoise_wavelet(noisy, sigma=strength * sigma, channel_axis=-1, convert2ycbcr=True, rescale_sigma=True)


def non_local_means(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """Non-local means (Buades et al. 2005)."""
    window = {"patch_size": 5, "patch_distance": 6, "fast_mode": True}
    return denoise_nl_means(noisy, h=strength * sigma, sigma=sigma, channel_axis=-1, **window)


def total_variation(noisy: np.ndarray, sigma: float, strength: float) -> np.ndarray:
    """Total variation (Rudin et al. 1992; Chambolle 2004)."""
    return denoise_tv_chambolle(noisy, weight=strength * sigma, channel_axis=-1)


# Method -> (function, the strengths that are tried, in units of the noise level).
METHODS = {
    "wavelet": (wavelet, np.linspace(0.6, 1.4, 9)),
    "nlm": (non_local_means, np.linspace(0.3, 1.1, 9)),
    "tv": (total_variation, np.linspace(0.3, 1.9, 17)),
}


@cache
def strengths() -> dict[str, dict[int, float]]:
    """{method: {σ: strength}}, as tuned; strengths in units of the noise level."""
    return yaml.safe_load(FILE.read_text())


def restore(method: str, noisy: np.ndarray, sigma: float) -> np.ndarray:
    """Restore an image by a classical method with its tuned strength.

    Args:
        method: a key of METHODS.
        noisy: float array H×W×3, clean values in [0, 1].
        sigma: noise level, 0 to 255 scale; between two tuned levels the strength is interpolated.

    Returns:
        The restored array, not clipped.
    """
    tuned = strengths()[method]
    return METHODS[method][0](noisy, sigma / 255, float(np.interp(sigma, list(tuned), list(tuned.values()))))


def tune(count: int = 20, side: int = 128) -> dict[str, dict[int, float]]:
    """{method: {σ: strength}} with the best mean PSNR on centre crops of the last `count` images of BSD400."""
    crops = []
    for name, image in load_dataset("BSD400")[-count:]:
        crops.append((name, centre_crop(image, side)))
    tuned = {method: {} for method in METHODS}
    for sigma in SIGMAS:
        pairs = [(clean, add_noise(clean, sigma, seed=0, name=name)) for name, clean in crops]
        for method, (function, tried) in METHODS.items():
            means = [np.mean([psnr(c, function(n, sigma / 255, s)) for c, n in pairs]) for s in tried]
            tuned[method][sigma] = round(float(tried[int(np.argmax(means))]), 2)
            print(f"{method}, σ = {sigma}: strength {tuned[method][sigma]}, {max(means):.2f} dB", flush=True)
    return tuned


@exit_clearly
def main(argv=None):
    argparse.ArgumentParser(
        prog="python -m glowlib tune-classical",
        description="Tune the classical methods' strengths on held-out images of BSD400, and write classical.yaml.",
    ).parse_args(argv)
    text = "# Strengths in units of the noise level, by noise level; written by `python -m glowlib tune-classical`.\n"
    FILE.write_text(text + yaml.safe_dump(tune(), sort_keys=False))
