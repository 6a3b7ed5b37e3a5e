"""Sliders and an upload button for notebooks with a running kernel; ipywidgets 7 and 8."""

import sys
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.image_files import read_picture

WIDTH = 640  # pixels, of the picture under a slider


def as_png(image: np.ndarray) -> bytes:
    """An image H×W×3, values in [0, 1], as the bytes of a PNG, at most WIDTH wide; a small one is enlarged."""
    picture = Image.fromarray(np.rint(255 * image.clip(0, 1)).astype(np.uint8))
    scale = WIDTH / picture.width
    size = (WIDTH, round(scale * picture.height))
    png = BytesIO()
    picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS).save(png, "png")
    return png.getvalue()


def image_slider(draw: Callable[[int], np.ndarray], name: str, value: int, low: int, high: int, step: int = 1):
    """A slider above the image that it controls.

    Args:
        draw: value of the slider -> image H×W×3, values in [0, 1].
        name: beside the slider.
        value: where it begins, from `low` to `high` in steps of `step`.
    Returns:
        A widget; the last value of a notebook's cell is displayed.
    """
    from ipywidgets import Image as Frame
    from ipywidgets import IntSlider, VBox

    class Viewer(VBox):
        def __repr__(self):  # displayed where no kernel runs, and on GitHub
            return "(a slider above an image: run the notebook to move it)"

    layout = {"width": f"{WIDTH}px", "max_width": "100%"}
    slider = IntSlider(value, low, high, step, description=name, continuous_update=False, layout=layout)
    frame = Frame(value=as_png(draw(value)), format="png", layout=layout)
    slider.observe(lambda change: setattr(frame, "value", as_png(draw(change["new"]))), "value")
    return Viewer([slider, frame])


def before_after_slider(before: np.ndarray, after: np.ndarray):
    """Two images H×W×3 of one size, values in [0, 1], in one frame: a slider moves the border between them."""

    def draw(percent):
        border = round(percent / 100 * before.shape[1])
        image = np.concatenate([before[:, :border], after[:, border:]], axis=1)
        image[:, max(border - 1, 0) : border + 1] = 1
        return image

    return image_slider(draw, "before, %", 50, 0, 100)


def upload_button():
    """A button that uploads one picture, see `uploaded`."""
    from ipywidgets import FileUpload

    class UploadButton(FileUpload):
        def __repr__(self):  # displayed where no kernel runs, and on GitHub
            return "(a button that uploads a picture: run the notebook to use it)"

    return UploadButton(accept="image/*", multiple=False)


def uploaded(button=None) -> tuple[np.ndarray, str] | None:
    """The picture that was uploaded.

    Args:
        button: of `upload_button`; None opens Colab's own dialogue, where the notebook runs there.
    Returns:
        (array as of `read_picture`, file name), or None where nothing was uploaded.
    Raises:
        KitError: for a file that is not a picture.
    """
    if button is None and "google.colab" in sys.modules:
        from google.colab import files

        found = files.upload()
    elif button is None or not button.value:
        found = {}
    elif isinstance(button.value, dict):  # ipywidgets 7
        found = {name: file["content"] for name, file in button.value.items()}
    else:
        found = {file["name"]: bytes(file["content"]) for file in button.value}
    for name, content in found.items():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"upload{Path(name).suffix}"
            path.write_bytes(content)
            return read_picture(path), Path(name).name
    return None
