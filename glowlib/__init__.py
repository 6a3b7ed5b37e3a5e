"""Patch-based neural networks with global context, for colour image denoising: a reproducibility kit."""

from .data.metrics import psnr, ssim
from .data.noise import add_noise
from .errors import KitError
from .evaluation.tiling import denoise
from .networks import create_model
from .networks.convert import from_original
from .networks.pretrained import download_pretrained, list_models, load_pretrained

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
