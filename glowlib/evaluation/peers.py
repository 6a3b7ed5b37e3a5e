"""Denoisers of other authors, as rows of the benchmark: DnCNN, FFDNet and CBM3D.

The weights of DnCNN and FFDNet are public (GitHub cszn/KAIR, release v1.0, MIT licence). They are downloaded when first
needed, checked by hash, and never shipped with the kit. Both networks were trained on `float` noise; the benchmark
scores them under `8bit` noise, too. CBM3D comes from the optional package `bm3d`, whose licence allows
non-commercial use only: `pip install glowlib[peers]`.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import requests
import torch
import torch.nn.functional as F
from torch import nn

from ..data.download import download
from ..data.images import to_tensor
from ..errors import KitError
from ..files import DATA_VARIABLE, data_folder, sha256
from ..networks.pretrained import read_weights

HOME = "https://github.com/cszn/KAIR/releases/download/v1.0"
STRIP = 2**20  # pixels restored at once: a megapixel takes about half a gigabyte
MARGIN = 24  # rows on each side of a strip that its own rows depend on: the larger of the two receptive fields


def convolutions(channels: int, width: int, outputs: int, count: int) -> nn.Sequential:
    """`count` convolutions 3×3 of `width` feature maps with ReLU between them."""
    layers = [nn.Conv2d(channels, width, 3, padding=1)]
    for _ in range(count - 2):
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(width, outputs, 3, padding=1))


class DnCNN(nn.Module):
    """DnCNN for colour, blind (σ 0 to 55): the network predicts the noise (Zhang et al. 2017, arXiv:1608.03981).

    Batch normalisation is merged into the convolutions, as in the published weights.
    """

    def __init__(self):
        super().__init__()
        self.model = convolutions(3, 64, 3, 20)

    def forward(self, image: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
        """image: (batch, 3, H, W), clean values in [0, 1]; sigma is not used. Returns the same shape, not clipped."""
        return image - self.model(image)


class FFDNet(nn.Module):
    """FFDNet for colour, given σ, on the four sub-images of half the size (Zhang et al. 2018, arXiv:1710.04026)."""

    def __init__(self):
        super().__init__()
        self.model = convolutions(13, 96, 12, 12)

    def forward(self, image: torch.Tensor, sigma: float) -> torch.Tensor:
        """image: (batch, 3, H, W), clean values in [0, 1]; sigma: 0 to 255 scale. Returns its shape, not clipped."""
        height, width = image.shape[-2:]
        x = F.pixel_unshuffle(F.pad(image, (0, width % 2, 0, height % 2), "replicate"), 2)
        noise_map = torch.full_like(x[:, :1], sigma / 255)
        return F.pixel_shuffle(self.model(torch.cat([x, noise_map], 1)), 2)[..., :height, :width]


class Peer(NamedTuple):
    """A published network: its class, its weights file and that file's SHA-256."""

    network: type
    file: str
    digest: str


PEERS = {
    "dncnn": Peer(DnCNN, "dncnn_color_blind.pth", "dfe11a6b703304df82cdf236f431fc6492766c7b9119d97e943edeb392c710a3"),
    "ffdnet": Peer(FFDNet, "ffdnet_color.pth", "286f04f7e3a20254c067ba95efb5d3339f4fc8a09a365a93cd469184d4cdb279"),
}


def peer_weights(name: str) -> Path:
    """The weights file of "dncnn" or "ffdnet" in the folder `peers` of the data folder, downloaded if it is not there.

    Raises:
        KitError: it can neither be found nor downloaded, or has another hash.
    """
    peer = PEERS[name]
    path = data_folder() / "peers" / peer.file
    by_hand = f"save {HOME}/{peer.file} as {path}, or set {DATA_VARIABLE}"
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download(f"{HOME}/{peer.file}", path)
        except (requests.RequestException, OSError) as error:
            raise KitError(f"the weights of {name} cannot be fetched ({type(error).__name__}): {by_hand}") from error
    if sha256(path) != peer.digest:
        raise KitError(f"{path} is not the published file (its SHA-256 differs): remove it, then {by_hand}")
    return path


def load_peer(name: str) -> nn.Module:
    """The published "dncnn" or "ffdnet" with its weights, in eval mode, on the CPU."""
    model = PEERS[name].network()
    tensors, _ = read_weights(peer_weights(name))
    model.load_state_dict(tensors)
    return model.eval()


@torch.no_grad()
def restore_whole(model: nn.Module, noisy: np.ndarray, sigma: float, strip: int = STRIP) -> np.ndarray:
    """Restore an image as a whole; a large one in strips of rows, with the same result.

    Args:
        model: from `load_peer`, on any device.
        noisy: any one image that `glowlib.data.images.to_tensor` takes, clean values in [0, 1].
        sigma: noise level, 0 to 255 scale; DnCNN does not use it.
        strip: pixels restored at once.

    Returns:
        The restored image, of the same kind and size.
    """
    tensor, rebuild = to_tensor(noisy)
    image = tensor.to(next(model.parameters()))
    height, width = image.shape[-2:]
    rows = max(2, strip // width // 2 * 2)  # even, so that FFDNet's sub-images are the same ones
    strips = []
    for top in range(0, height, rows):
        start = max(0, top - MARGIN)
        restored = model(image[..., start : top + rows + MARGIN, :], sigma)
        strips.append(restored[..., top - start : top - start + rows, :])
    return rebuild(torch.cat(strips, -2).to(tensor))


def cbm3d(noisy: np.ndarray, sigma: float) -> np.ndarray:
    """CBM3D (Dabov et al. 2007) with the settings of the package `bm3d`, given σ; runs on the CPU.

    Args:
        noisy: float array H×W×3, clean values in [0, 1].
        sigma: noise level, 0 to 255 scale.

    Returns:
        The restored array, not clipped.

    Raises:
        KitError: the package is not installed.
    """
    return cbm3d_package().bm3d_rgb(np.asarray(noisy, np.float64), sigma_psd=sigma / 255)


def cbm3d_package():
    """The optional package `bm3d`, or a KitError that says how to install it."""
    try:
        import bm3d
    except ImportError as error:
        raise KitError("CBM3D needs an optional package, for non-commercial use only: pip install bm3d") from error
    return bm3d
