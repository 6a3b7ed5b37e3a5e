"""What the tests share: small networks with weights that leave nothing at zero, and a photograph."""

import zlib
from types import MappingProxyType

import numpy as np
import pytest
import torch
from skimage import data

from glowlib.data.paper_pairs import prepare
from glowlib.files import DATA_VARIABLE
from glowlib.networks import create_model
from glowlib.training import TrainingConfig

torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives


@pytest.fixture(scope="session")
def nano():
    """Options of a network that runs in milliseconds and still has shifted windows and several heads."""
    return MappingProxyType(
        {
            "embed_dim": 16,
            "patch_size": 2,
            "window_size": 4,
            "depths": (2, 1, 1, 1),
            "num_heads": (1, 2, 2, 2),
            "training_size": 64,
        }
    )


def fill(module):
    """Draw every tensor from its own name: same names and shapes, same weights; none is left at its initial zero."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if not tensor.is_floating_point():
                continue
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            draw = torch.from_numpy(rng.standard_normal(tuple(tensor.shape)))
            if tensor.ndim > 1:
                draw = draw / tensor[0].numel() ** 0.5
            elif name.endswith("running_var"):
                draw = 1 + 0.1 * draw.abs()
            else:
                draw = 0.1 * draw + (name.endswith("weight"))
            tensor.copy_(draw)
    return module


@pytest.fixture(scope="session")
def filled():
    """fill(module) -> the module, with seeded weights everywhere."""
    return fill


@pytest.fixture(scope="session")
def build(nano):
    """build(name, **options) -> a small network with filled weights, in eval mode."""

    def build(name, **options):
        return fill(create_model(name, **{**nano, **options})).eval()

    return build


@pytest.fixture(scope="session")
def photograph():
    """A face from scikit-image's astronaut, uint8, 128×128×3."""
    return np.ascontiguousarray(data.astronaut()[40:168, 160:288])


@pytest.fixture(scope="session")
def batch(photograph):
    """batch(height, width, number=1) -> that many different crops as a float tensor (number, 3, height, width)."""
    picture = torch.from_numpy(photograph).permute(2, 0, 1).float() / 255

    def batch(height, width, number=1):
        return torch.stack([picture.roll((-3 * n, -5 * n), (1, 2))[:, :height, :width] for n in range(number)])

    return batch


@pytest.fixture(scope="session")
def recipe():
    """recipe(**changes) -> a short training recipe of small crops."""

    def recipe(**changes):
        return TrainingConfig(**{"batch_size": 4, "crop": 16, "steps": 5, **changes})

    return recipe


@pytest.fixture
def pairs(tmp_path, monkeypatch, recipe):
    """Twenty prepared pairs of bundled photographs, and the recipe that trains on them."""
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    prepare("bundled", tmp_path / "pairs", crops=4, side=31)
    return recipe(data="bundled", pairs="pairs", crop=32, steps=10)
