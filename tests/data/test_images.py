"""Images of every kind, in and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from glowlib.data.images import centre_crop, to_array, to_tensor
from glowlib.errors import KitError

few = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda side: st.sampled_from([side, (*side, 1), (*side, 2), (*side, 3), (*side, 4)])
)


@st.composite
def integer_pictures(draw):
    return draw(hnp.arrays(draw(st.sampled_from([np.uint8, np.uint16])), draw(shapes)))


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


# Files


def test_the_centre_crop():
    image = np.arange(7 * 5).reshape(7, 5)
    assert np.array_equal(centre_crop(image, 3), image[2:5, 1:4])
    assert np.array_equal(centre_crop(image, 6), image[0:6])
