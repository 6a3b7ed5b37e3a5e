"""Sliders show what they should, and an upload opens with either version of ipywidgets."""

from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from glowlib.errors import KitError
from glowlib.experiments.widgets import as_png, before_after_slider, image_slider, upload_button, uploaded


def opened(png):
    return np.asarray(Image.open(BytesIO(png)))


def test_images_fit_a_page():
    assert opened(as_png(np.zeros((30, 40, 3)))).shape == (480, 640, 3)
    assert opened(as_png(np.ones((200, 1280, 3)))).shape == (100, 640, 3)
    assert (opened(as_png(np.full((8, 8, 3), 2.0))) == 255).all()


def test_moving_the_slider_draws_again():
    box = image_slider(lambda value: np.full((8, 8, 3), value / 10), "level", 0, 0, 10)
    slider, frame = box.children
    slider.value = 10
    assert (opened(frame.value) == 255).all()


@pytest.mark.parametrize(("percent", "dark"), [(0, 0.0), (50, 0.5), (100, 1.0)])
def test_the_border_between_before_and_after_moves(percent, dark):
    slider, frame = before_after_slider(np.zeros((64, 640, 3)), np.full((64, 640, 3), 0.5)).children
    slider.value = percent
    assert (opened(frame.value)[0, :, 0] == 0).mean() == pytest.approx(dark, abs=0.01)


def png_of(value):
    content = BytesIO()
    Image.fromarray(np.full((5, 7, 3), value, np.uint8)).save(content, "png")
    return content.getvalue()


@pytest.mark.parametrize(
    "value",
    [{"a.png": {"content": png_of(9)}}, ({"name": "a.png", "content": memoryview(png_of(9))},)],
    ids=["ipywidgets 7", "ipywidgets 8"],
)
def test_an_upload_is_read(value):
    picture, name = uploaded(SimpleNamespace(value=value))
    assert name == "a.png"
    assert picture.shape == (5, 7, 3)
    assert (picture == 9).all()


def test_without_a_kernel_a_sentence_stands_for_the_widget():
    assert "run the notebook" in repr(upload_button())


def test_no_upload_is_none():
    assert uploaded() is None
    assert uploaded(upload_button()) is None


def test_another_file_is_refused():
    with pytest.raises(KitError):
        uploaded(SimpleNamespace(value=({"name": "a.png", "content": b"text"},)))
