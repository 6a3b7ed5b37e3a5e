"""Every kind of image that the kit accepts as one float tensor, and back."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, ImageCms

from ..errors import KitError

ImageLike = np.ndarray | torch.Tensor | Image.Image  # what `to_tensor` takes
ORIENTATION = 0x0112  # the EXIF tag that says how to turn the stored pixels: 1 to 8
# Floats beyond this are on another scale. A clean image lies in [0, 1]; Gaussian noise of σ = 100 (0.39 here)
# reaches 8 at 18 standard deviations. Images on the 0 to 255 scale exceed it unless they are nearly black.
LARGEST = 8
BAND = 256  # rows that are converted at a time: no copy of a large image in floats


@dataclass(frozen=True)
class Pixels:
    """An image as it was given, with what turns it into floats in [0, 1].

    values: (batch, 3 or 1, H, W), not copied where that can be avoided. top: the value of full intensity (1, 255 or
    65535). dtype: the floats to compute in. rebuild: (batch, 3, H, W) -> the kind that was given.
    """

    values: torch.Tensor
    top: int
    dtype: torch.dtype
    rebuild: Callable

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Some of the values as floats, full intensity at 1: (..., 3 or 1, H, W) -> (..., 3, H, W)."""
        values = values.to(self.dtype, memory_format=torch.contiguous_format).contiguous()
        if self.top != 1:
            values /= values.new_full((), self.top)
        return values.expand(*values.shape[:-3], 3, -1, -1)

    def whole(self) -> torch.Tensor:
        """The image as floats, (batch, 3, H, W)."""
        return self.scaled(self.values)

    def to(self, device: torch.device, dtype: torch.dtype) -> "Pixels":
        """The pixels on a device. On the CPU nothing is converted yet, so that integers stay small."""
        if device.type == "cpu":
            return replace(self, values=self.values.cpu(), dtype=dtype)
        # The type first: Apple's GPUs have no float64.
        return replace(self, values=self.whole().to(dtype).to(device), top=1, dtype=dtype)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels H×W or H×W×channels turned and flipped as the EXIF orientation 1 to 8 says."""
    turns = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a),
    }
    return np.ascontiguousarray(turns[orientation](pixels)) if orientation in turns else pixels


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a Pillow image, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    try:
        found = image.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata, in more ways than Pillow names
        return 1
    return found if found in range(1, 9) else 1


def cmyk_to_srgb(image: Image.Image) -> Image.Image:
    """A CMYK image in sRGB, by its ICC profile where it has a usable one."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            pass  # as without a profile
    return image.convert("RGB")


def with_transparent_colour(pixels: np.ndarray, colour) -> np.ndarray:
    """Pixels H×W or H×W×3 with an alpha channel: 0 where a pixel has exactly this colour, else full."""
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    visible = (planes != np.asarray(colour)).any(2, keepdims=True)
    return np.concatenate([planes, visible.astype(pixels.dtype) * np.iinfo(pixels.dtype).max], 2)


def from_pil(image: Image.Image) -> tuple[np.ndarray, bytes | None]:
    """The pixels of a Pillow image and the ICC profile that they are in.

    Args:
        image: any mode of at most 16 bits a channel; of an animation the current frame.
    Returns:
        uint8 or uint16 array H×W (grey) or H×W×(2, 3, 4) (with alpha, colour, both), turned upright, and the profile,
        None without one. Palettes become colour; CMYK and Lab become sRGB; one transparent colour becomes alpha.
    Raises:
        KitError: for modes whose range is not known ("I", "F"), or pixels that cannot be decoded.
    """
    if image.mode in ("I", "F"):
        raise KitError(f"a PIL image of mode {image.mode} has no known range: give an array of floats in [0, 1]")
    try:
        image.load()  # a file's pixels are read here; TIFF files are turned upright here, too
        profile, transparent = image.info.get("icc_profile"), image.info.get("transparency")
        orientation = orientation_of(image)
        if image.mode == "CMYK":
            image, profile = cmyk_to_srgb(image), None
        elif image.mode == "LAB":
            image, profile = image.convert("RGB"), None
        elif image.mode in ("P", "PA", "La", "RGBa"):
            image, transparent = image.convert("RGBA" if image.has_transparency_data else "RGB"), None
        elif image.mode == "1":
            image, transparent = image.convert("L"), None if transparent is None else 255 * transparent
        elif image.mode not in ("L", "RGB", "LA", "RGBA") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
    except MemoryError:
        raise
    except Exception as error:  # whatever a damaged file makes Pillow's decoders raise
        raise KitError(f"the image cannot be decoded: {error}") from error
    pixels = np.array(image)
    if image.mode.startswith("I;16"):
        pixels = pixels.astype(np.uint16)  # in this machine's byte order
    if transparent is not None and image.mode not in ("LA", "RGBA"):
        pixels = with_transparent_colour(pixels, transparent)
    return turned(pixels, orientation), profile


def resolution(image: Image.Image) -> tuple[float, float] | None:
    """The resolution of a Pillow image in dots per inch, across and down; None where it has none that makes sense."""
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if 0 < across < 1e6 and 0 < down < 1e6 else None


def pixels_of_pil(image: Image.Image) -> Pixels:
    array, profile = from_pil(image)
    if array.dtype == np.uint16 and array.ndim == 3:
        raise KitError("no PIL image can hold 16 bits with transparency: give an array, as read_picture returns it")
    pixels = pixels_of_array(array)
    known = {"icc_profile": profile, "dpi": resolution(image)}

    def rebuild(restored):
        result = Image.fromarray(pixels.rebuild(restored))
        result.info |= {name: value for name, value in known.items() if value}
        return result

    return replace(pixels, rebuild=rebuild)


def pixels_of_tensor(image: torch.Tensor) -> Pixels:
    fits = image.ndim in (3, 4) and image.shape[-3] in (1, 3) and 0 not in image.shape
    if not fits or not image.is_floating_point():
        raise KitError(
            f"expected a float tensor (batch, 3 or 1, H, W), not {image.dtype} of shape {tuple(image.shape)}"
        )

    def rebuild(restored):
        restored = restored.mean(1, keepdim=True) if image.shape[-3] == 1 else restored
        return (restored if image.ndim == 4 else restored[0]).to(image)

    return Pixels(image if image.ndim == 4 else image[None], 1, image.dtype, rebuild)


def pixels_of_array(image: np.ndarray) -> Pixels:
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in image.shape:
        raise KitError(f"expected an image H×W or H×W×3, not an array of shape {image.shape}")
    native = image.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16):
        top = np.iinfo(native).max
    elif np.issubdtype(native, np.floating):
        top, native = 1, np.dtype(np.float64 if native.itemsize > 4 else np.float32)
    else:
        raise KitError(f"expected float, uint8 or uint16 values, not {image.dtype}")
    colours = 1 if channels < 3 else 3
    planes = image.reshape(*image.shape[:2], channels)[..., :colours].transpose(2, 0, 1).astype(native, copy=False)
    if not planes.flags.writeable or min(planes.strides) < 0:  # what torch cannot share
        planes = planes.copy()

    def rebuild(restored):
        restored = restored[0].detach().cpu()
        result = np.empty((*image.shape[:2], channels), image.dtype)
        for top_row in range(0, len(result), BAND):
            rows = slice(top_row, top_row + BAND)
            part = restored[:, rows].mean(0, keepdim=True) if colours == 1 else restored[:, rows]
            part = part.numpy().transpose(1, 2, 0)
            result[rows, :, :colours] = np.rint(part.clip(0, 1) * top) if top > 1 else part
        if channels in (2, 4):
            result[..., -1] = image[..., -1]
        return result.reshape(image.shape)

    dtype = torch.float64 if native == np.float64 else torch.float32
    return Pixels(torch.from_numpy(planes)[None], int(top), dtype, rebuild)


def to_pixels(image, any_range: bool = False) -> Pixels:
    """An image of any accepted kind, checked but not yet converted; see `to_tensor`.

    any_range: accept floats that are on no known scale.
    """
    if isinstance(image, Image.Image):
        return pixels_of_pil(image)
    if isinstance(image, torch.Tensor):
        pixels = pixels_of_tensor(image)
    elif isinstance(image, np.ndarray):
        pixels = pixels_of_array(image)
    else:
        raise KitError(f"expected an array, a tensor or a PIL image, not {type(image).__name__}")
    if pixels.top == 1:
        least, largest = (value.item() for value in pixels.values.detach().aminmax())
        if not (np.isfinite(least) and np.isfinite(largest)):
            raise KitError("the image holds NaN or infinite values")
        if max(-least, largest) > LARGEST and not any_range:
            raise KitError(
                f"the image has values from {least:g} to {largest:g}: floats are on the scale where clean values "
                "lie in [0, 1]; divide by 255, or give a uint8 array"
            )
    return pixels


def to_tensor(image: ImageLike) -> tuple[torch.Tensor, Callable]:
    """The colour of an image as a float tensor, and the function that returns such a tensor to the image's kind.

    Args:
        image: float array H×W, H×W×1 or H×W×3, clean values in [0, 1]; uint8 or uint16 array, which is scaled;
            either with alpha as second or fourth channel; PIL image, see `from_pil`; float tensor batch×3×H×W,
            batch×1×H×W or C×H×W.
    Returns:
        (batch, 3, H, W), and rebuild((batch, 3, H, W)). Grey is repeated to three channels, and averaged by rebuild;
        alpha is set aside and put back; integers are clipped and rounded; floats are not. A PIL image keeps its
        ICC profile and its resolution, and comes back upright.
    Raises:
        KitError: for anything else, for values that are not finite, and for floats on the 0 to 255 scale.
    """
    pixels = to_pixels(image)
    return pixels.whole(), pixels.rebuild


def to_array(image, any_range: bool = False) -> np.ndarray:
    """One image of any accepted kind as a float64 array H×W×3, clean values in [0, 1]; see `to_tensor`.

    any_range: accept floats that are on no known scale.
    """
    pixels = to_pixels(image, any_range)
    if len(pixels.values) != 1:
        raise KitError(f"expected one image, not a batch of {len(pixels.values)}")
    array = pixels.whole()[0].permute(1, 2, 0).detach().cpu().double().numpy()
    return np.rint(array * pixels.top) / pixels.top if pixels.top > 1 else array  # exact, where float32 had rounded


def centre_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle of an array H×W or H×W×channels: `side` pixels a side, or all there are of a shorter one."""
    top, left = ((length - min(length, side)) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
