"""The estimate of the noise level, and networks with noise normalisation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from glowlib import add_noise, create_model
from glowlib.data.datasets import bundled
from glowlib.errors import KitError
from glowlib.networks.base import LEAST_LEVEL
from glowlib.networks.noise_level import LARGEST, diagonal_detail, estimate_sigma

NETWORKS = ("sunet", "gcunet", "glownet", "sglownet")


def board(side=128, cell=1):
    squares = (np.add.outer(np.arange(side) // cell, np.arange(side) // cell) % 2).astype(np.float64)
    return np.stack([squares] * 3, axis=2)


def page(side=192):
    image = Image.new("RGB", (side, side), "white")
    for top in range(0, side, 12):
        ImageDraw.Draw(image).text((2, top), "the quick brown fox jumps over it", fill="black")
    return np.asarray(image) / 255


IMAGES = {
    "flat": np.full((128, 128, 3), 0.5),
    "board of 1": board(),
    "board of 3": board(cell=3),
    "page": page(),
    **{name: bundled(name)[:300, :301] / 255 for name in ("astronaut", "chelsea", "coffee")},
}


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize("sigma", [5, 10, 25, 50, 75])
@pytest.mark.parametrize("name", IMAGES)
def test_the_level_is_found_within_a_tenth(name, sigma):
    """Photographs have a little noise of their own, which counts at σ = 5."""
    noisy = add_noise(IMAGES[name], sigma, seed=0, name=name)
    assert estimate_sigma(tensor(noisy)).item() == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("sigma", [25, 50])
def test_a_grey_image_has_one_noise_for_its_channels(sigma):
    grey = IMAGES["coffee"].mean(2)
    noisy = torch.from_numpy(add_noise(grey, sigma, seed=0, name="grey")).float().expand(1, 3, -1, -1)
    assert estimate_sigma(noisy).item() == pytest.approx(sigma, rel=0.1)


def test_each_image_of_a_batch_has_its_own_level():
    noisy = [tensor(add_noise(IMAGES["chelsea"], s, seed=0, name="c")) for s in (10, 40)]
    alone = torch.cat([estimate_sigma(n) for n in noisy])
    assert torch.equal(estimate_sigma(torch.cat(noisy)), alone)


@given(st.integers(2, 9), st.integers(2, 9))
def test_any_size_has_an_estimate(height, width):
    found = estimate_sigma(torch.rand(2, 3, height, width))
    assert found.shape == (2,)
    assert found.isfinite().all()


def test_large_images_are_sampled_evenly():
    x = torch.randn(1, 3, 4096, 3072)
    detail = diagonal_detail(x)
    assert LARGEST / 2 < detail.shape[2] < 2 * LARGEST
    assert detail.std().item() == pytest.approx(1, rel=0.01)


def model_of(network, nano, **options):
    torch.manual_seed(1)
    return create_model(network, **{**nano, "noise_normalisation": True, **options}).eval()


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
@settings(max_examples=5, deadline=None)
@given(factor=st.floats(0.3, 3))
def test_a_network_follows_the_scale_of_an_image(network, residual, factor):
    """Normalisation-equivariance: f(a(x - ½) + ½) = a(f(x) - ½) + ½, where the level is given along."""
    sizes = {"embed_dim": 8, "patch_size": 2, "window_size": 4, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)}
    model = model_of(network, sizes, training_size=32, qk_scale=None, global_residual=residual)
    x = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        straight = factor * (model(x, sigma=20) - 0.5) + 0.5
        scaled = model(factor * (x - 0.5) + 0.5, sigma=20 * factor)
    assert torch.allclose(scaled, straight, atol=2e-4 * max(1, factor))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_the_given_level_takes_the_place_of_the_estimate(network, nano, batch):
    model, x = model_of(network, nano), batch(37, 53)
    with torch.no_grad():
        estimated = model(x)
        levels = estimate_sigma(x).clamp(min=LEAST_LEVEL)
        assert torch.allclose(model(x, sigma=levels), estimated, atol=1e-6)
        assert not torch.allclose(model(x, sigma=3 * levels), estimated, atol=1e-3)


def test_an_image_without_noise_is_no_reason_for_a_division_by_zero(nano):
    with torch.no_grad():
        assert model_of("sunet", nano)(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_a_network_without_normalisation_takes_no_level(nano, batch):
    with pytest.raises(KitError, match="leave sigma out"):
        create_model("sunet", **nano)(batch(16, 16), sigma=10)


@pytest.mark.parametrize("sigma", [0, -1, float("nan"), float("inf"), torch.tensor([25.0, 0.0])], ids=str)
def test_a_given_level_is_positive_and_finite(sigma, nano, batch):
    with pytest.raises(KitError, match="above 0 and finite"):
        model_of("sunet", nano)(batch(16, 16, 2), sigma=sigma)


@pytest.mark.parametrize("sigma", [torch.ones(3), torch.ones(2, 1), "strong", [1, [2]]], ids=str)
def test_a_given_level_fits_the_batch(sigma, nano, batch):
    with pytest.raises(KitError, match="sigma is"):
        model_of("sunet", nano)(batch(16, 16, 2), sigma=sigma)
