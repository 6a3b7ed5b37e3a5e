"""The shipped models: never worse than the noisy image, whatever its content."""

import copy

import numpy as np
import pytest
from PIL import Image, ImageDraw
from skimage import data

from glowlib import add_noise, denoise, list_models, load_pretrained, psnr

MODELS = list_models().shipped


def text_page():
    """Black lines of text on white, as a scanner sees them."""
    page = Image.new("RGB", (160, 160), "white")
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(
        ("Patch-based neural", "networks with global", "context integration", "sigma 5 10 25 50") * 2
    ):
        draw.text((8, 8 + 18 * i), line, fill="black")
    return np.asarray(page)


SQUARES = (np.indices((128, 128)) // 8).sum(0) % 2
SUBJECTS = {
    "photograph": data.astronaut()[40:168, 160:288],
    "grey photograph": data.camera()[100:228, 160:288],
    "black": np.zeros((128, 128, 3)),
    "white": np.ones((128, 128, 3)),
    "mid-grey": np.full((128, 128, 3), 0.5),
    "gradient": np.broadcast_to(np.linspace(0, 1, 128)[:, None], (128, 128, 3)),
    "checkerboard": np.repeat(SQUARES[..., None].astype(float), 3, 2),
    "text page": text_page(),
    "16×16 crop": data.astronaut()[100:116, 210:226],
    "17×301 crop": data.coffee()[200:217, 100:401],
}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return load_pretrained(request.param)


def test_mixed_precision_costs_next_to_nothing(model):
    """The loss of bfloat16 in the inner layers, in decibels, at the noise levels of the paper."""
    clean, reduced = data.coffee()[100:260, 200:360] / 255, copy.deepcopy(model).mixed_precision()
    for sigma in (10, 30, 50):
        noisy = add_noise(clean, sigma, seed=0, name="coffee.png")
        assert abs(psnr(clean, denoise(model, noisy)) - psnr(clean, denoise(reduced, noisy))) < 0.05


@pytest.mark.parametrize("subject", SUBJECTS)
def test_restored_is_never_worse_than_noisy(subject, model):
    clean = SUBJECTS[subject]
    clean = clean / 255 if clean.dtype == np.uint8 else clean
    gains = {}
    for sigma in (5, 10, 25, 50):
        noisy = add_noise(clean, sigma, seed=0, name=f"{subject}.png")
        gains[sigma] = psnr(clean, denoise(model, noisy)) - psnr(clean, noisy)
    assert min(gains.values()) >= 0, gains
