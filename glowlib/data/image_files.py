"""Image files: read with all their bits, upright and in the right colours, or refused; written whole or not at all."""

import io
import logging
import os
import struct
import sys
import threading
import warnings
import zlib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tifffile
from PIL import Image, UnidentifiedImageError

from ..errors import KitError, printable
from ..files import atomic_write
from .images import ORIENTATION, from_pil, orientation_of, resolution, turned, with_transparent_colour

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".tif", ".tiff", ".webp")
# What is opened, by content, whatever the name says. Pillow by itself opens some forty formats, PostScript among them,
# which it passes to an external program.
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP")
MAX_PIXELS_VARIABLE = "GLOWLIB_MAX_PIXELS"
BYTES_PER_PIXEL = 32  # memory that reading and restoring an image takes, at most
COLOUR_CHUNKS = (b"cICP", b"mDCV", b"cLLI", b"gAMA", b"cHRM", b"sRGB")  # of PNG, beside the ICC profile
PILLOW_LIMIT = threading.RLock()  # held while Pillow's own limit on the size is off

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it finds damaged is said in an error


@dataclass(frozen=True)
class ImageFile:
    """What an image file holds.

    pixels: uint8 or uint16 array H×W or H×W×(2, 3, 4), upright. format: "png", "jpeg", "tiff" or "webp".
    frames: how many images the file holds; these pixels are the first one's. icc_profile: None without one. dpi:
    across and down, None without. colour_chunks: (name, content) of a PNG file's other colour information.
    """

    pixels: np.ndarray
    format: str
    frames: int = 1
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    colour_chunks: tuple = ()


def available_memory() -> int:
    """Bytes that this process can still take."""
    found = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # a container's limit, where there is one
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def pixel_limit() -> int:
    """The largest number of pixels that is read: GLOWLIB_MAX_PIXELS, else what the memory has room for."""
    given = os.environ.get(MAX_PIXELS_VARIABLE)
    if given is None:
        return available_memory() // BYTES_PER_PIXEL
    if not given.isdecimal():
        raise KitError(f"{MAX_PIXELS_VARIABLE} is a number of pixels, not {given!r}")
    return int(given)


def check_size(width: int, height: int, max_pixels: int | None) -> None:
    if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):  # TIFF may hold anything
        raise KitError("it has no pixels")
    limit = pixel_limit() if max_pixels is None else max_pixels
    if width * height > limit:
        raise KitError(
            f"its {width}×{height} pixels are more than the {limit} that the memory has room for; "
            f"set {MAX_PIXELS_VARIABLE} or --max_pixels to a larger number to try it all the same"
        )


@contextmanager
def no_limit_of_pillow():
    """Pillow's limit on the size of images is off: `check_size` takes its place."""
    with PILLOW_LIMIT:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def read_picture(path, max_pixels: int | None = None) -> np.ndarray:
    """The pixels of an image file, PNG, JPEG, TIFF or WebP by content.

    Args:
        path: the file, under any name. max_pixels: refuse larger images; by default see `pixel_limit`.
    Returns:
        uint8 or uint16 array, H×W (grey) or H×W×(2, 3, 4) (with alpha, colour, both), turned upright as EXIF says.
        Of several frames or pages the first, with a warning. Palettes become colour, CMYK becomes sRGB.
    Raises:
        KitError: one line that names the file, where it is no such image, is cut short, is too large, or holds
            what cannot be kept (more than 16 bits, 16-bit CMYK, channels of unstated meaning).
    """
    image = read_image(path, max_pixels)
    if image.frames > 1:
        warnings.warn(f"{printable(path)} holds {image.frames} images: the first is read", stacklevel=2)
    return image.pixels


def read_image(path, max_pixels: int | None = None) -> ImageFile:
    """As `read_picture`, with what the file says about its colours and its resolution."""
    try:
        data = Path(path).read_bytes()
        with no_limit_of_pillow():
            if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return decode_tiff(data, max_pixels)
            return decode(data, max_pixels)
    except (KitError, OSError) as error:
        reason = "it is not a PNG, JPEG, TIFF or WebP image" if isinstance(error, UnidentifiedImageError) else error
    except MemoryError as error:
        raise KitError(f"cannot read {printable(path)} as an image: there is not enough memory") from error
    except Exception as error:  # whatever a damaged file makes a decoder raise
        reason = error
    raise KitError(f"cannot read {printable(path)} as an image: {printable(reason)}") from None


def decode(data: bytes, max_pixels: int | None) -> ImageFile:
    """A PNG, JPEG or WebP image."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        check_size(*opened.size, max_pixels)
        kind = "jpeg" if opened.format == "MPO" else opened.format.lower()
        frames, dpi, chunks = getattr(opened, "n_frames", 1), resolution(opened), ()
        depth = data[24] if kind == "png" else 8
        if kind == "png":
            chunks = tuple((name, body) for name, body in png_chunks(data) if name in COLOUR_CHUNKS)
        if depth == 16 and opened.mode != "I;16":
            pixels = decode_16_bit_colour(data)
            if "transparency" in opened.info:
                pixels = with_transparent_colour(pixels, opened.info["transparency"])
            pixels, profile = turned(pixels, orientation_of(opened)), opened.info.get("icc_profile")
        else:
            if depth in (2, 4) and opened.mode == "L" and "transparency" in opened.info:
                opened.info["transparency"] *= 255 // (2**depth - 1)  # the levels are spread to 8 bits, it is not
            pixels, profile = from_pil(opened)
    return ImageFile(np.ascontiguousarray(pixels), kind, frames, profile, dpi, chunks)


def png_chunks(data: bytes):
    """(name, content) of the chunks of a PNG file that come before its pixels."""
    start = 8
    while start + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, start)
        if name == b"IDAT":
            return
        yield name, data[start + 8 : start + 8 + length]
        start += 12 + length


def decode_tiff(data: bytes, max_pixels: int | None) -> ImageFile:
    """The first page of a TIFF file."""
    if data[:4] == b"MM\0+":
        raise KitError("big-endian BigTIFF is not read; save it as TIFF")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        check_size(page.imagewidth, page.imagelength, max_pixels)
        check_tiff(page)
        frames = sum(not other.is_reduced for other in file.pages)
        profile, dpi = page.tags.valueof(34675), tiff_resolution(page)
        grey = page.photometric in (0, 1) and page.samplesperpixel == 1
        chunky = page.planarconfig == 1 or page.samplesperpixel == 1
        if page.bitspersample < 16 or (grey and page.photometric == 1):
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                pixels, profile = from_pil(opened)
        else:
            plain = page.photometric == 2 and chunky  # Pillow turns these upright by itself
            orientation = page.tags.valueof(ORIENTATION, 1)
            pixels = decode_16_bit_colour(data) if plain else turned(decode_by_tifffile(page), orientation)
    return ImageFile(np.ascontiguousarray(pixels), "tiff", frames, profile, dpi)


def tiff_resolution(page):
    try:
        across, down = page.get_resolution("inch")
    except Exception:  # damaged metadata, in more ways than tifffile names
        return None
    return (across, down) if page.resolutionunit != 1 and 0 < across < 1e6 and 0 < down < 1e6 else None


def check_tiff(page) -> None:
    """Refuse a page of which Pillow would give fewer bits, fewer channels or other colours than it has."""
    bits, photometric, extra = page.bitspersample, page.photometric, tuple(int(e) for e in page.extrasamples)
    bits = max(bits) if isinstance(bits, tuple) else bits
    if page.sampleformat not in (1, 4) or bits not in (1, 2, 4, 8, 16):
        raise KitError(f"its {bits}-bit values have no known range; save it with 8 or 16 bits")
    if page.is_reduced or 50706 in page.tags:  # DNG, in which a preview comes first
        raise KitError("its first image is a preview, as in cameras' raw files; develop it and save it as TIFF")
    if extra not in ((), (1,), (2,)):
        raise KitError("it has channels of unstated meaning beside its colours; save it as RGB or RGBA")
    if bits == 16 and (photometric not in (0, 1, 2) or extra == (1,)):
        what = "premultiplied alpha" if photometric in (0, 1, 2) else getattr(photometric, "name", photometric)
        raise KitError(f"16 bits with {what} are not read; save it as RGB or RGBA")
    if photometric == 6 and page.compression == 1:
        raise KitError("YCbCr without compression is not read; save it as RGB")


def decode_16_bit_colour(data: bytes) -> np.ndarray:
    """16-bit RGB or RGBA of a PNG or TIFF file, or grey with alpha of a PNG file.

    Pillow keeps the high byte of each value; given the other byte order, it keeps the low one.
    """
    other_order = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
    halves = []
    for low in (False, True):
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            tiles = [(tile, *(tile.args if isinstance(tile.args, tuple) else (tile.args,))) for tile in opened.tile]
            if tiles[0][1] == "LA;16B":  # four bytes a pixel, as RGBA has
                opened.tile = [tile._replace(args="RGBA") for tile, *_ in tiles]
                return np.array(opened).view(">u2").astype(np.uint16)
            if low:
                opened.tile = [
                    tile._replace(args=(raw_mode[:-1] + other_order[raw_mode[-1]], *rest))
                    for tile, raw_mode, *rest in tiles
                ]
            halves.append(np.asarray(opened).astype(np.uint16))
    return halves[0] * 256 + halves[1]


def decode_by_tifffile(page) -> np.ndarray:
    """A page's 16 bits plane by plane, with alpha beside grey, or with white as 0: what Pillow does not read."""
    segments = zip(page.dataoffsets, page.databytecounts, strict=True)
    end = page.parent.filehandle.size
    if page.imagedepth != 1 or not all(offset > 0 and 0 < size <= end - offset for offset, size in segments):
        raise KitError("it is cut short")  # tifffile would leave the rest black
    try:
        pixels = page.asarray()
    except (KeyError, ValueError) as error:
        if "imagecodecs" not in str(error):
            raise
        name = getattr(page.compression, "name", page.compression)
        raise KitError(f"{name} compression of 16-bit planes is not read; save it without compression") from error
    if pixels.ndim == 3 and page.planarconfig == 2:
        pixels = np.moveaxis(pixels, 0, 2)
    pixels = pixels.astype(np.uint16)
    if page.photometric == 0:
        colour = pixels if pixels.ndim == 2 else pixels[..., :1]
        np.subtract(65535, colour, out=colour)
    return pixels


def to_colour(image: np.ndarray) -> np.ndarray:
    """Pixels as `read_picture` returns them, as uint8 H×W×3: 16 bits rounded to 8, grey repeated, alpha left out."""
    if image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    image = image[..., None] if image.ndim == 2 else image
    return image[..., :1].repeat(3, 2) if image.shape[2] < 3 else np.ascontiguousarray(image[..., :3])


def write_image(path, image: np.ndarray, kind: str = "png", *, icc_profile=None, dpi=None, colour_chunks=(), note=""):
    """Write an image file, beside, then renamed: nothing half-written takes its name.

    Args:
        path: the file; its folder exists. image: uint8 or uint16 array H×W or H×W×(2, 3, 4).
        kind: "png", "tiff", "jpeg" (quality 95, 8 bits, no alpha) or "webp" (lossless, 8 bits). icc_profile, dpi,
        colour_chunks (PNG alone): see `ImageFile`. note: ASCII text about the software, kept in the file.
    Raises:
        KitError: for what the format cannot hold, or where the file cannot be written.
    """
    path, channels = Path(path), image.shape[2] if image.ndim == 3 else 1
    if image.dtype not in (np.uint8, np.uint16) or image.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise KitError(f"cannot write {image.dtype} values of shape {image.shape} as an image")
    if kind in ("jpeg", "webp") and (image.dtype == np.uint16 or (kind == "jpeg" and channels in (2, 4))):
        raise KitError(f"{kind.upper()} holds neither 16 bits nor, as JPEG, transparency: choose png or tiff")
    image = image[..., 0] if image.ndim == 3 and channels == 1 else image
    with atomic_write(path) as temporary:
        if kind == "png":
            with temporary.open("wb") as file:
                encode_png(file, image, icc_profile, dpi, colour_chunks, note)
        elif kind == "tiff":
            options = {"photometric": "rgb" if channels > 2 else "minisblack", "compression": "zlib", "metadata": None}
            if channels in (2, 4):
                options["extrasamples"] = ["unassalpha"]
            if dpi:
                options |= {"resolution": dpi, "resolutionunit": "INCH"}
            options |= {"planarconfig": "contig"} if channels > 1 else {}
            tifffile.imwrite(temporary, image, iccprofile=icc_profile, software=note, **options)
        else:
            exif = Image.Exif()
            exif[0x0131] = note
            options = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {"lossless": True, "exact": True}
            options |= {"dpi": dpi} if dpi and kind == "jpeg" else {}
            Image.fromarray(image).save(temporary, kind, exif=exif, icc_profile=icc_profile, **options)


def write_png(path, image: np.ndarray) -> None:
    """Write a uint8 or uint16 array, H×W or H×W×(2, 3, 4), as PNG, see `write_image`."""
    write_image(path, image)


def encode_png(file, image: np.ndarray, icc_profile, dpi, colour_chunks, note) -> None:
    """The PNG format (W3C, third edition), whose 16-bit colour Pillow cannot write, a few rows at a time."""

    def chunk(name, body):
        file.write(struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)))

    height, width = image.shape[:2]
    channels = image.shape[2] if image.ndim == 3 else 1
    step = channels * image.dtype.itemsize  # bytes a pixel
    file.write(b"\x89PNG\r\n\x1a\n")
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 * image.dtype.itemsize, colour_type, 0, 0, 0))
    for name, body in colour_chunks:
        chunk(name, body)
    if icc_profile:
        chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc_profile))
    if dpi:
        chunk(b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in dpi), 1))  # pixels a metre
    if note:
        chunk(b"tEXt", b"Software\0" + note.encode("ascii"))
    packer = zlib.compressobj(3)
    band = max(1, (1 << 20) // (width * step))
    for top in range(0, height, band):
        rows = np.ascontiguousarray(image[top : top + band].astype(image.dtype.newbyteorder(">"), copy=False))
        rows = rows.view(np.uint8).reshape(len(rows), width * step)
        filtered = np.empty((len(rows), 1 + width * step), np.uint8)
        filtered[:, 0] = 1  # each byte as its difference from the pixel at its left
        filtered[:, 1 : 1 + step] = rows[:, :step]
        np.subtract(rows[:, step:], rows[:, :-step], out=filtered[:, 1 + step :])
        chunk(b"IDAT", packer.compress(filtered))
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")
