"""PSNR and SSIM against the formulas, written again here."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import correlate1d

from glowlib.data.metrics import psnr, ssim
from glowlib.data.noise import add_noise
from glowlib.errors import KitError

few = settings(max_examples=30, deadline=None)
pictures = hnp.arrays(np.uint8, (12, 13, 3))
floats = hnp.arrays(np.float64, (12, 13, 3), elements=st.floats(-0.5, 1.5))


def plain_ssim(x, y, weights, unbiased):
    """Wang et al. 2004 on planes in [0, 255]: weighted moments, mean over the windows that lie inside."""
    half = len(weights) // 2

    def smooth(t):
        t = correlate1d(correlate1d(t, weights, axis=0), weights, axis=1)
        return t[half:-half, half:-half]

    mx, my = smooth(x), smooth(y)
    scale = len(weights) ** 2 / (len(weights) ** 2 - 1) if unbiased else 1
    vx, vy, vxy = (scale * (smooth(a * b) - smooth(a) * smooth(b)) for a, b in ((x, x), (y, y), (x, y)))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def plain_grey(clean, restored):
    """scikit-image's defaults: uniform 7×7, sample covariance, Rec. 709 luma."""
    luma = np.array([0.2125, 0.7154, 0.0721])
    return plain_ssim(clean @ luma, restored @ luma, np.full(7, 1 / 7), unbiased=True)


def plain_rgb(clean, restored):
    """KAIR's calculate_ssim: Gaussian 11×11 of σ 1.5, each channel, five pixels of border cropped."""
    weights = np.exp(-np.square(np.arange(-5, 6) / 1.5) / 2)
    weights /= weights.sum()
    return np.mean([plain_ssim(clean[..., c], restored[..., c], weights, unbiased=False) for c in range(3)])


@pytest.mark.parametrize("sigma", [2, 25, 75])
@pytest.mark.parametrize(("protocol", "plain"), [("grey", plain_grey), ("rgb", plain_rgb)])
def test_ssim(protocol, plain, sigma, photograph):
    noisy = add_noise(photograph, sigma, seed=0, name="face.png")
    rounded = np.rint(noisy.astype(np.float64).clip(0, 1) * 255)
    expected = plain(photograph.astype(np.float64), rounded)
    assert ssim(photograph, noisy, protocol) == pytest.approx(expected, abs=1e-6)
    assert expected < 0.995


@pytest.mark.parametrize("sigma", [2, 25, 75])
def test_psnr(sigma, photograph):
    noisy = add_noise(photograph, sigma, seed=0, name="face.png")
    rounded = np.rint(noisy.astype(np.float64).clip(0, 1) * 255)
    expected = 10 * np.log10(255**2 / np.square(rounded - photograph).mean())
    assert psnr(photograph, noisy) == pytest.approx(expected, abs=1e-6)


def test_psnr_by_hand():
    """One level apart everywhere: 20·log10(255)."""
    assert psnr(np.full((8, 8, 3), 9, np.uint8), np.full((8, 8, 3), 10, np.uint8)) == pytest.approx(48.1308036)


@few
@given(pictures, pictures)
def test_symmetry_on_8bit_pictures(a, b):
    assert psnr(a, b) == pytest.approx(psnr(b, a), abs=1e-9)
    for protocol in ("grey", "rgb"):
        assert ssim(a, b, protocol) == pytest.approx(ssim(b, a, protocol), abs=1e-9)
        assert ssim(a, b, protocol) <= 1 + 1e-12


@few
@given(pictures)
def test_a_picture_equals_itself(a):
    assert psnr(a, a) == float("inf")
    assert ssim(a, a, "grey") == pytest.approx(1, abs=1e-12)
    assert ssim(a, a, "rgb") == pytest.approx(1, abs=1e-12)


@few
@given(pictures, floats)
def test_the_restored_picture_is_clipped_and_rounded_first(clean, restored):
    stored = np.rint(restored.clip(0, 1) * 255).astype(np.uint8)
    assert psnr(clean, restored) == pytest.approx(psnr(clean, stored), abs=1e-6)
    assert ssim(clean, restored) == pytest.approx(ssim(clean, stored), abs=1e-6)


def test_the_clean_picture_is_not_rounded():
    clean = np.full((8, 8, 3), 0.4 / 255)
    assert psnr(clean, np.zeros((8, 8, 3))) == pytest.approx(20 * np.log10(255 / 0.4), abs=1e-6)


def test_kinds_mix(photograph):
    """An array against a tensor, float32 against uint8."""
    noisy = add_noise(photograph, 25, seed=0, name="face.png")
    expected = psnr(photograph, noisy)
    tensor = torch.from_numpy(noisy).permute(2, 0, 1)
    clean = torch.from_numpy(photograph / np.float32(255)).permute(2, 0, 1)[None]
    assert psnr(photograph, tensor[None]) == pytest.approx(expected, abs=1e-5)
    assert psnr(clean, tensor) == pytest.approx(expected, abs=1e-5)
    assert ssim(clean, tensor, "rgb") == pytest.approx(ssim(photograph, noisy, "rgb"), abs=1e-6)


def test_grey_is_scored_as_three_equal_channels(photograph):
    grey, other = photograph[..., 0], photograph[..., 1]
    assert psnr(grey, other) == pytest.approx(10 * np.log10(255**2 / np.square(grey - other.astype(float)).mean()))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_other_scales(score, photograph):
    """Of the clean image an error; a restored one may be that of an untrained network: clipped, and said."""
    floats = photograph.astype(np.float32)
    with pytest.raises(KitError, match="divide by 255"):
        score(floats, photograph)
    with pytest.warns(UserWarning, match="restored values reach 2.*clipped"):
        assert score(photograph, floats) == score(photograph, floats.clip(0, 1))


@pytest.mark.parametrize("score", [psnr, ssim])
def test_what_cannot_be_compared(score):
    with pytest.raises(KitError, match="cannot compare"):
        score(np.zeros((16, 16, 3)), np.zeros((16, 17, 3)))
    with pytest.raises(KitError, match="one image"):
        score(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16))


@pytest.mark.parametrize(("protocol", "side"), [("grey", 7), ("rgb", 11)])
def test_smallest_picture_of_ssim(protocol, side):
    smallest = np.zeros((side, side + 1, 3))
    assert ssim(smallest, smallest, protocol) == pytest.approx(1)
    with pytest.raises(KitError, match=f"at least {side}"):
        ssim(smallest[:-1], smallest[:-1], protocol)


def test_unknown_protocol_lists_the_known():
    with pytest.raises(ValueError, match="grey, rgb"):
        ssim(np.zeros((16, 16, 3)), np.zeros((16, 16, 3)), "luma")
