"""Pictures in and out: every kind the kit accepts as one float tensor, and back; files with 8 and 16 bits."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import KitError

# Pictures that announce an absurd size.
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")


def to_tensor(image):
    """(tensor, rebuild): the colour of `image` as float (batch, 3, H, W), and the way back to its kind.

    image: float array H×W, H×W×1 or H×W×3, clean values in [0, 1]; uint8 or uint16 array, scaled;
    either with alpha as second or fourth channel; PIL image; float tensor batch×3×H×W,
    batch×1×H×W or C×H×W. Grey is repeated to three channels and averaged on the way back;
    alpha is set aside and put back; integers are clipped and rounded; floats are left as they are.
    Raises ValueError for anything else, and for values that are not finite.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F"):
            raise KitError(f"a PIL image of mode {image.mode} has no known range: give an array of floats in [0, 1]")
        if image.mode.startswith("I;16"):
            image = Image.fromarray(np.asarray(image).astype(np.uint16))
        elif image.mode not in ("L", "RGB", "LA", "RGBA"):
            image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
        tensor, rebuild = to_tensor(np.asarray(image))
        return tensor, lambda restored: Image.fromarray(rebuild(restored))
    if isinstance(image, torch.Tensor):
        fits = image.ndim in (3, 4) and image.shape[-3] in (1, 3) and 0 not in image.shape
        if not fits or not image.is_floating_point():
            raise KitError(
                f"expected a float tensor (batch, 3 or 1, H, W), not {image.dtype} of shape {tuple(image.shape)}"
            )
        if not image.isfinite().all():
            raise KitError("the image holds NaN or infinite values")
        batch = image if image.ndim == 4 else image[None]

        def rebuild_tensor(restored):
            restored = restored.mean(1, keepdim=True) if image.shape[-3] == 1 else restored
            return (restored if image.ndim == 4 else restored[0]).to(image)

        return batch.expand(-1, 3, -1, -1), rebuild_tensor
    if not isinstance(image, np.ndarray):
        raise KitError(f"expected an array, a tensor or a PIL image, not {type(image).__name__}")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in image.shape:
        raise KitError(f"expected an image H×W or H×W×3, not an array of shape {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        top = np.iinfo(image.dtype).max
    elif np.issubdtype(image.dtype, np.floating):
        top = 1
        if not np.isfinite(image).all():
            raise KitError("the image holds NaN or infinite values")
    else:
        raise KitError(f"expected float, uint8 or uint16 values, not {image.dtype}")
    colour_channels = 1 if channels < 3 else 3
    colour = image.reshape(*image.shape[:2], channels)[..., :colour_channels]
    work = np.float64 if image.dtype == np.float64 else np.float32
    tensor = torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1)).astype(work) / work(top))

    def rebuild_array(restored):
        restored = restored[0].mean(0, keepdim=True) if colour_channels == 1 else restored[0]
        restored = restored.detach().cpu().numpy().transpose(1, 2, 0)
        if top > 1:
            restored = np.rint(restored.clip(0, 1) * top)
        restored = restored.astype(image.dtype)
        if channels in (2, 4):
            restored = np.concatenate([restored, image[..., -1:]], axis=2)
        return restored.reshape(image.shape)

    return tensor[None].expand(-1, 3, -1, -1), rebuild_array


def to_array(image):
    """Any accepted kind of one picture as a float array H×W×3 (float64), clean values in [0, 1]."""
    tensor, _ = to_tensor(image)
    if len(tensor) != 1:
        raise KitError(f"expected one image, not a batch of {len(tensor)}")
    array = tensor[0].permute(1, 2, 0).detach().cpu().double().numpy()
    deep = getattr(image, "dtype", None) == np.uint16 or getattr(image, "mode", "") == "I;16"
    if deep or isinstance(image, Image.Image) or getattr(image, "dtype", None) == np.uint8:
        top = 65535 if deep else 255
        array = np.rint(array * top) / top  # exact again, where float32 had rounded
    return array


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
            beside = path.with_name(path.name + ".part")
            Image.fromarray(picture).save(beside, format="png")
            beside.replace(path)
            return
    if picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".png", picture)[1]
    beside = path.with_name(path.name + ".part")
    beside.write_bytes(encoded.tobytes())
    beside.replace(path)
