"""Picture files: read with 8 or 16 bits, upright; written as PNG."""

import warnings
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import KitError
from ..files import atomic_write

# Pictures that announce an absurd size.
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def read_picture(path):
    """A picture file as uint8 or uint16 array, H×W or H×W×(2, 3, 4), turned upright as EXIF asks.

    Raises KitError, naming the file, where it is no picture or is cut short.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                orientation = opened.getexif().get(0x0112, 1)
                if opened.mode in ("I", "F"):
                    raise ValueError("its 32-bit values have no known range; save it with 8 or 16 bits")
                opened.load()  # notices cut files, which OpenCV would fill with grey
                if opened.mode not in ("L", "RGB", "LA", "RGBA", "I;16", "I;16B"):
                    opened = opened.convert("RGBA" if opened.has_transparency_data else "RGB")
                picture = np.asarray(ImageOps.exif_transpose(opened))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, cv2.error, *BOMBS) as error:
        raise KitError(f"cannot read {path} as a picture: {error}") from error
    if picture.dtype == np.uint8 and picture.ndim == 3 and Path(path).suffix.lower() in (".png", ".tif", ".tiff"):
        # Pillow keeps 8 of 16 bits in colour; OpenCV keeps all.
        deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
        if deep is not None and deep.dtype == np.uint16 and deep.ndim == 3 and orientation == 1:
            order = cv2.COLOR_BGRA2RGBA if deep.shape[2] == 4 else cv2.COLOR_BGR2RGB
            picture = cv2.cvtColor(deep, order)
    return picture if picture.dtype == np.uint8 else picture.astype(np.uint16)


def to_colour(picture):
    """A picture as `read_picture` returns it, as uint8 H×W×3: 16 bits rounded to 8, grey repeated, alpha left out."""
    if picture.dtype == np.uint16:
        picture = np.rint(picture / 257).astype(np.uint8)
    picture = picture[..., None] if picture.ndim == 2 else picture
    return picture[..., :1].repeat(3, 2) if picture.shape[2] < 3 else np.ascontiguousarray(picture[..., :3])


def write_png(path, picture):
    """Write a uint8 or uint16 array, H×W or H×W×(2, 3, 4), as PNG: beside, then renamed."""
    path = Path(path)
    if picture.ndim == 3 and picture.shape[2] == 2:  # PNG's grey with alpha, which OpenCV lacks
        if picture.dtype == np.uint16:
            picture = np.concatenate([picture[..., :1].repeat(3, 2), picture[..., 1:]], axis=2)
        else:
            with atomic_write(path) as temporary:
                Image.fromarray(picture).save(temporary, format="png")
            return
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", picture)[1]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
