"""Classical methods are tuned."""

import pytest
from skimage import data

from glowlib import add_noise, psnr
from glowlib.evaluation import classical


@pytest.mark.parametrize("method", classical.METHODS)
@pytest.mark.parametrize("sigma", [10, 50])
def test_classical_methods_are_tuned(method, sigma):
    clean = data.coffee()[100:228, 200:328]
    noisy = add_noise(clean, sigma, seed=0, name="coffee.png")
    scores = [psnr(clean, classical.METHODS[method][0](noisy, sigma / 255, s)) for s in (0.1, 3)]
    tuned = psnr(clean, classical.restore(method, noisy, sigma))
    assert tuned > max(scores)
    assert tuned > psnr(clean, noisy) + 2
