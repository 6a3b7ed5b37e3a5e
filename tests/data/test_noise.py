"""Noise: the same for every order, subset, batch and kind; two protocols."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glowlib.data.image_files import read_picture
from glowlib.data.noise import add_noise, gaussian, to_8bit_by_truncation
from glowlib.errors import KitError

KODAK = Path(os.environ.get("GLOWLIB_DATA", "")) / "Kodak24"


def grey_image(side=256, value=0.5):
    return np.full((side, side, 3), value, np.float32)


@pytest.mark.parametrize("protocol", ["float", "8bit"])
def test_noise_belongs_to_the_picture(protocol, batch):
    """Alone, in a batch, in another order, with a folder in the name: the same bits."""
    images, names = batch(20, 30, 3), ["a.png", "b.png", "c.png"]
    options = {"seed": 7, "protocol": protocol}
    together = add_noise(images, 25, name=names, **options)
    turned = add_noise(images.flip(0), 25, name=names[::-1], **options)
    assert torch.equal(turned.flip(0), together)
    for image, name, noisy in zip(images, names, together, strict=True):
        assert torch.equal(add_noise(image, 25, name=name, **options), noisy)
        assert torch.equal(add_noise(image, 25, name=f"some/folder/{name}", **options), noisy)
        array = add_noise(image.permute(1, 2, 0).numpy(), 25, name=name, **options)
        assert np.array_equal(array, noisy.permute(1, 2, 0).numpy())


def test_other_draws_do_not_matter():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = gaussian(8, 8, 25, 0, "a.png")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(gaussian(8, 8, 25, 0, "a.png"), first)


@pytest.mark.parametrize("change", [{"seed": 1}, {"name": "b.png"}, {"sigma": 26}, {"sigma": 25.5}], ids=str)
def test_another_seed_name_or_level_is_another_draw(change):
    options = {"height": 64, "width": 64, "sigma": 25, "seed": 0, "name": "a.png"}
    a, b = gaussian(**options), gaussian(**{**options, **change})
    assert abs(np.corrcoef(a.flatten(), b.flatten())[0, 1]) < 0.04  # 12288 draws: four standard errors


def test_the_kind_of_number_does_not_matter():
    """25, 25.0 and a NumPy scalar are one level."""
    draws = [gaussian(8, 8, sigma, 0, "a.png") for sigma in (25, 25.0, np.float32(25), np.int64(25))]
    assert all(torch.equal(draw, draws[0]) for draw in draws)


@pytest.mark.parametrize("sigma", [5, 25, 50])
def test_float_noise_has_the_level_asked_for(sigma):
    clean = grey_image(value=0.02)
    noise = (add_noise(clean, sigma, seed=0, name="flat.png") - clean) * 255
    count = noise.size
    assert abs(noise.mean()) < 4 * sigma / count**0.5
    assert abs(noise.std() - sigma) < 4 * sigma / (2 * count) ** 0.5
    assert noise.min() < -4 * sigma < 4 * sigma < noise.max()  # not clipped
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 4 / len(channels) ** 0.5


def test_float_is_the_sum():
    clean = np.random.default_rng(0).random((9, 8, 3))
    expected = clean + 30 / 255 * gaussian(9, 8, 30, 4, "x.png").permute(1, 2, 0).double().numpy()
    np.testing.assert_allclose(add_noise(clean, 30, seed=4, name="x.png"), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [10, 50])
def test_8bit_is_clipped_and_truncated(sigma, photograph):
    """Against float64: the same level, but within rounding of the next one."""
    noisy = add_noise(photograph, sigma, seed=0, name="face.png", protocol="8bit")
    levels = noisy.astype(np.float64) * 255
    assert np.abs(levels - np.rint(levels)).max() < 1e-4
    noise = gaussian(128, 128, sigma, 0, "face.png").permute(1, 2, 0).double().numpy()
    exact = (photograph / 255 + sigma / 255 * noise).clip(0, 1) * 255
    apart = np.rint(levels) != np.floor(exact)
    assert (np.abs(exact - np.rint(exact))[apart] < 2e-4).all()
    assert apart.mean() < 1e-3
    assert np.mean(levels - exact) == pytest.approx(-0.5, abs=0.1)  # truncation darkens by half a level


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.float64])
def test_no_noise_keeps_8bit_values_exactly(kind):
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    image = picture if kind == np.uint8 else (picture / kind(255)).astype(kind)
    noisy = add_noise(image, 0, seed=0, name="ramp.png", protocol="8bit")
    assert np.array_equal(np.rint(noisy * 255).astype(np.uint8), picture)
    clean = picture / np.float32(255) if kind == np.uint8 else image
    np.testing.assert_array_equal(add_noise(image, 0, seed=0, name="ramp.png"), clean)


def test_truncation_by_hand():
    x = torch.tensor([-0.2, 0.0, 0.5, 0.9999, 1.0, 1.7])
    assert (to_8bit_by_truncation(x) * 255).round().tolist() == [0, 0, 127, 254, 255, 255]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (lambda p: p[..., 0], (6, 5)),
        (lambda p: p[..., :2], (6, 5)),
        (lambda p: p[..., [0, 1, 2, 0]], (6, 5, 3)),
        (lambda p: Image.fromarray(p[..., 0]), (6, 5)),
        (lambda p: Image.fromarray(np.ascontiguousarray(p[..., :2])), (6, 5)),
        (lambda p: Image.fromarray(p), (6, 5, 3)),
        (lambda p: torch.from_numpy(p / 255).permute(2, 0, 1)[:1], (1, 6, 5)),
        (lambda p: torch.from_numpy(p / 255).permute(2, 0, 1)[None], (1, 3, 6, 5)),
    ],
    ids=["grey", "grey-alpha", "colour-alpha", "pil-grey", "pil-grey-alpha", "pil-colour", "tensor-grey", "tensor"],
)
def test_kinds(kind, shape, photograph):
    """Grey gets one channel of the noise, alpha none."""
    noisy = add_noise(kind(photograph[:6, :5]), 20, seed=0, name="k.png")
    assert noisy.shape == shape
    reference = add_noise(photograph[:6, :5], 20, seed=0, name="k.png")
    channel_last = noisy.reshape(3 if 3 in shape[:2] else 1, 6, 5) if isinstance(noisy, torch.Tensor) else None
    values = noisy if channel_last is None else channel_last.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(values.reshape(6, 5, -1)[..., 0], reference[..., 0], atol=1e-6)


@pytest.mark.parametrize("sigma", [-1, float("nan"), float("inf")])
def test_impossible_levels_are_refused(sigma):
    with pytest.raises(KitError, match="noise level"):
        add_noise(grey_image(4), sigma, seed=0, name="a")


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.int32(3)], ids=lambda s: type(s).__name__)
def test_numpys_integers_are_the_same_seed(seed):
    assert np.array_equal(
        add_noise(grey_image(8), 25, seed=seed, name="a"), add_noise(grey_image(8), 25, seed=3, name="a")
    )


@pytest.mark.parametrize("seed", [0.0, 3.5, "3", None, True])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    """0.0 would be another draw than 0, without a word."""
    with pytest.raises(KitError, match="seed is a whole number"):
        add_noise(grey_image(8), 25, seed=seed, name="a")


def test_a_default_type_and_device_do_not_change_the_draw():
    expected = gaussian(8, 9, 25, 0, "a.png")
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = gaussian(8, 9, 25, 0, "a.png")
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_a_name_that_is_no_text_has_a_draw():
    name = os.fsdecode(b"caf\xe9.png")
    assert gaussian(4, 4, 25, 0, name).shape == (3, 4, 4)


def test_unknown_protocol_lists_the_known():
    with pytest.raises(ValueError, match="float, 8bit"):
        add_noise(grey_image(4), 10, seed=0, name="a", protocol="uint8")


def test_each_image_needs_its_name():
    with pytest.raises(KitError, match="names"):
        add_noise(torch.zeros(3, 3, 4, 4), 10, seed=0, name=["a", "b"])


@pytest.mark.skipif(not KODAK.is_dir(), reason="needs Kodak24 in the folder that GLOWLIB_DATA names")
@pytest.mark.parametrize(("sigma", "decibels"), [(10, 28.22), (30, 18.93), (50, 14.87)])
def test_recorded_noisy_psnr_of_kodak24(sigma, decibels):
    """Mean PSNR of the noisy input under the paper's protocol, on the full frames."""
    paths = sorted(KODAK.glob("*.png"))
    assert len(paths) == 24
    scores = []
    for path in paths:
        clean = read_picture(path)
        noisy = add_noise(clean, sigma, seed=0, name=path.name, protocol="8bit")
        scores.append(-10 * np.log10(np.mean((noisy - clean / np.float32(255)) ** 2, dtype=np.float64)))
    assert np.mean(scores) == pytest.approx(decibels, abs=0.05)
