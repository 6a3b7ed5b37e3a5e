"""Images of every kind, in and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps
from strategies import integer_pictures, shapes

from glowlib.data.images import BAND, ORIENTATION, centre_crop, to_array, to_pixels, to_tensor
from glowlib.errors import KitError

few = settings(max_examples=40, deadline=None)


@st.composite
def float_pictures(draw):
    dtype, width = draw(st.sampled_from([(np.float16, 16), (np.float32, 32), (np.float64, 64)]))
    return draw(hnp.arrays(dtype, draw(shapes), elements=st.floats(-4, 4, width=width)))


@few
@given(integer_pictures())
def test_integers_come_back_exactly(picture):
    tensor, rebuild = to_tensor(picture)
    assert tensor.shape == (1, 3, *picture.shape[:2])
    assert 0 <= tensor.min() <= tensor.max() <= 1
    back = rebuild(tensor)
    assert back.dtype == picture.dtype
    assert np.array_equal(back, picture)


@few
@given(float_pictures())
def test_floats_come_back_unclipped(picture):
    tensor, rebuild = to_tensor(picture)
    back = rebuild(tensor)
    assert back.dtype == picture.dtype
    assert back.shape == picture.shape
    # Grey is the mean of three equal channels: one rounding.
    np.testing.assert_allclose(back, picture, rtol=1e-6, atol=1e-7)
    if picture.ndim == 3 and picture.shape[2] > 2:
        assert np.array_equal(back, picture)


@few
@given(integer_pictures())
def test_scaling(picture):
    """Colour is value / top, grey repeated; alpha does not enter."""
    top = np.iinfo(picture.dtype).max
    planes = picture.reshape(*picture.shape[:2], -1)
    grey = planes.shape[2] < 3
    expected = (np.repeat(planes[..., :1], 3, 2) if grey else planes[..., :3]) / top
    np.testing.assert_allclose(to_array(picture), expected, atol=1e-7)


def test_restored_integers_are_clipped_and_rounded_and_alpha_is_put_back():
    picture = np.array([[[10, 20, 30, 77]]], np.uint8)
    _, rebuild = to_tensor(picture)
    restored = torch.tensor([-0.5, 100.6 / 255, 1.5]).reshape(1, 3, 1, 1)
    assert rebuild(restored).tolist() == [[[0, 101, 255, 77]]]
    _, rebuild = to_tensor(np.array([[[10, 77]]], np.uint16))
    assert rebuild(torch.tensor([0.1, 0.2, 0.6]).reshape(1, 3, 1, 1)).tolist() == [[[round(0.3 * 65535), 77]]]


@few
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(1, 6), st.just(4))))
def test_pillow_modes_come_back(rgba):
    pictures = {
        "L": Image.fromarray(rgba[..., 0]),
        "LA": Image.fromarray(np.ascontiguousarray(rgba[..., :2])),
        "RGB": Image.fromarray(np.ascontiguousarray(rgba[..., :3])),
        "RGBA": Image.fromarray(rgba),
        "I;16": Image.fromarray(rgba[..., 0].astype(np.uint16) * 257),
    }
    for mode, picture in pictures.items():
        assert picture.mode == mode
        tensor, rebuild = to_tensor(picture)
        back = rebuild(tensor)
        assert isinstance(back, Image.Image)
        assert back.mode == mode
        assert np.array_equal(np.asarray(back), np.asarray(picture))


@pytest.mark.parametrize(("mode", "becomes"), [("1", "L"), ("P", "RGB"), ("CMYK", "RGB"), ("YCbCr", "RGB")])
def test_other_pillow_modes_become_the_nearest(mode, becomes, photograph):
    picture = Image.fromarray(photograph[:8, :9]).convert(mode)
    tensor, rebuild = to_tensor(picture)
    assert rebuild(tensor).mode == becomes
    assert np.array_equal(np.asarray(rebuild(tensor)), np.asarray(picture.convert(becomes)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (3, 4, 5), (1, 4, 5)])
def test_tensors_come_back(shape, dtype):
    image = torch.linspace(-1, 2, int(np.prod(shape))).reshape(shape).to(dtype)
    tensor, rebuild = to_tensor(image)
    assert tensor.shape[-3:] == (3, 4, 5)
    assert tensor.ndim == 4
    back = rebuild(tensor)
    assert back.dtype == dtype
    torch.testing.assert_close(back, image)


def test_several_images_are_no_picture():
    with pytest.raises(KitError, match="one image"):
        to_array(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    "bad",
    [
        None,
        "picture.png",
        [[0.5]],
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), bool),
        np.zeros((4, 4), complex),
        np.zeros((4, 4, 5)),
        np.zeros((1, 4, 4, 3)),
        np.zeros(4),
        np.zeros((0, 4, 3)),
        np.full((4, 4), np.nan),
        np.full((4, 4, 3), np.inf, np.float32),
        torch.zeros(4, 4),
        torch.zeros(1, 2, 4, 4),
        torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        torch.full((3, 4, 4), torch.nan),
        torch.zeros(1, 3, 0, 4),
        torch.zeros(0, 3, 4, 4),
        Image.new("I", (4, 4), 70_000),  # more than any of our kinds holds
        Image.new("F", (4, 4), 0.5),
    ],
    ids=lambda bad: f"{type(bad).__name__}-{getattr(bad, 'shape', '')}-{getattr(bad, 'dtype', '')}",
)
def test_anything_else_is_refused_in_one_line(bad):
    with pytest.raises(KitError) as caught:
        to_tensor(bad)
    assert "\n" not in str(caught.value)


def test_the_centre_crop():
    image = np.arange(7 * 5).reshape(7, 5)
    assert np.array_equal(centre_crop(image, 3), image[2:5, 1:4])
    assert np.array_equal(centre_crop(image, 6), image[0:6])


# --- PIL images keep what they say about their colours


def pil(mode, photograph):
    grey = Image.fromarray(photograph[:8, :12, 0].astype(np.uint16) * 257)
    return grey if mode == "I;16" else Image.fromarray(np.ascontiguousarray(photograph[:8, :12])).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "I;16", "P", "1"])
def test_a_pil_image_comes_back_upright_with_profile_and_resolution(mode, photograph):
    image = pil(mode, photograph)
    image.getexif()[ORIENTATION] = 6
    image.info |= {"icc_profile": b"a profile", "dpi": (300, 200)}
    upright = ImageOps.exif_transpose(image)
    tensor, rebuild = to_tensor(image)
    back = rebuild(tensor)
    assert back.size == (8, 12)
    assert np.array_equal(np.asarray(back), np.asarray(upright if mode not in "P1" else upright.convert(back.mode)))
    assert back.info == {"icc_profile": b"a profile", "dpi": (300, 200)}
    assert ORIENTATION not in back.getexif()


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
def test_a_transparent_colour_of_a_pil_image_becomes_alpha(mode, photograph):
    image = pil(mode, photograph)
    key = image.getpixel((3, 4))
    image.info["transparency"] = key // 255 if mode == "1" else key
    tensor, rebuild = to_tensor(image)
    back = rebuild(tensor)
    assert back.mode == ("RGBA" if mode in ("RGB", "P") else "LA")
    same = (np.asarray(image).reshape(8, 12, -1) == np.asarray(key).astype(bool if mode == "1" else int)).all(2)
    assert np.array_equal(np.asarray(back)[..., -1] == 0, same)


def test_what_no_pil_image_can_give_back_is_refused(photograph):
    image = pil("I;16", photograph)
    image.info["transparency"] = 0
    with pytest.raises(KitError, match="16 bits with transparency"):
        to_tensor(image)


def test_the_profile_of_cmyk_is_not_kept(photograph):
    image = pil("CMYK", photograph)
    image.info["icc_profile"] = b"a profile of inks"
    tensor, rebuild = to_tensor(image)
    assert "icc_profile" not in rebuild(tensor).info


def test_a_pil_image_that_cannot_be_decoded_is_one_line(tmp_path, photograph):
    Image.fromarray(photograph).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(KitError, match="cannot be decoded"):
        to_tensor(Image.open(tmp_path / "a.jpg"))


@pytest.mark.parametrize("dpi", [(0, 0), (float("nan"), 72), ("a", "b"), 72, (1e9, 1e9), None])
def test_a_resolution_without_sense_is_left_out(dpi, photograph):
    image = pil("RGB", photograph)
    image.info["dpi"] = dpi
    tensor, rebuild = to_tensor(image)
    assert "dpi" not in rebuild(tensor).info


# --- floats on another scale


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, torch.float32, torch.bfloat16], ids=str)
def test_floats_on_the_scale_to_255_are_refused(kind, photograph):
    image = photograph.astype(np.float64)
    image = torch.from_numpy(image).permute(2, 0, 1).to(kind) if isinstance(kind, torch.dtype) else image.astype(kind)
    for scale in (1, -1, 0.1):
        with pytest.raises(KitError, match="divide by 255"):
            to_tensor(image * scale)
    with pytest.raises(KitError, match="divide by 255"):
        to_array(image)
    assert to_array(image, any_range=True).max() > 200


@pytest.mark.parametrize("sigma", [25, 100, 200])
def test_noise_of_every_level_is_accepted(sigma):
    clean = np.random.default_rng(0).choice([0.0, 1.0], (1000, 1000, 3))
    noisy = clean + sigma / 255 * np.random.default_rng(1).standard_normal(clean.shape)
    assert noisy.max() > 1 + 4.5 * sigma / 255
    to_tensor(noisy)


# --- what must not matter


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_the_byte_order_does_not_matter(dtype):
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    image = (np.random.default_rng(0).random((4, 5, 3)) * top).astype(dtype)
    other = image.astype(image.dtype.newbyteorder())
    tensor, rebuild = to_tensor(other)
    assert torch.equal(tensor, to_tensor(image)[0])
    assert rebuild(tensor).dtype == other.dtype
    assert np.array_equal(rebuild(tensor), image)


def test_large_images_are_rebuilt_in_bands():
    image = np.random.default_rng(0).integers(0, 65536, (3 * BAND + 7, 5, 4)).astype(np.uint16)
    tensor, rebuild = to_tensor(image)
    assert np.array_equal(rebuild(tensor), image)


def test_integers_are_not_copied():
    image = np.zeros((6, 7, 3), np.uint8)
    assert to_pixels(image).values.data_ptr() == image.ctypes.data


def test_a_default_type_and_device_do_not_matter(photograph):
    expected = to_tensor(photograph)[0], to_array(photograph)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        found = to_tensor(photograph)[0], to_array(photograph)
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)
    assert found[0].dtype == torch.float32
    assert torch.equal(found[0], expected[0])
    assert np.array_equal(found[1], expected[1])
