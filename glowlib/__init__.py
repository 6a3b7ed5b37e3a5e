"""Patch-based neural networks with global context, for colour image denoising: a reproducibility kit."""

from .checkpoints import download_pretrained, from_original, list_models, load_pretrained
from .errors import KitError
from .inference import denoise
from .metrics import psnr, ssim
from .models import create_model
from .noise import add_noise

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
