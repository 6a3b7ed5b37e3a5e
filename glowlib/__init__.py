"""Patch-based neural networks with global context, for colour image denoising: a reproducibility kit."""

from .networks.convert import download_pretrained, from_original, list_models, load_pretrained
from .errors import KitError
from .evaluation.tiling import denoise
from .evaluation.metrics import psnr, ssim
from .networks import create_model
from .data.noise import add_noise

__version__ = "0.1.0"
__all__ = [
    "KitError",
    "add_noise",
    "create_model",
    "denoise",
    "download_pretrained",
    "from_original",
    "list_models",
    "load_pretrained",
    "psnr",
    "ssim",
]
