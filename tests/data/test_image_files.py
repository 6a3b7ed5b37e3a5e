"""Image files: every kind is read right or refused by name, and written whole."""

import io
import os
import struct
import subprocess
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from PIL import Image, ImageCms
from skimage.color import lab2rgb
from strategies import integer_pictures

from glowlib.data import image_files
from glowlib.data.image_files import read_image, read_picture, write_image, write_png
from glowlib.errors import KitError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
few = settings(max_examples=40, deadline=None)


@few
@given(integer_pictures())
def test_png_round_trip(tmp_path_factory, picture):
    """Bit by bit, every kind."""
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[..., 0]
    path = tmp_path_factory.mktemp("png") / "picture.png"
    write_png(path, picture)
    back = read_picture(path)
    assert back.dtype == picture.dtype
    assert np.array_equal(back, picture)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, np.zeros((4, 4, 3), np.uint8))
    before = path.read_bytes()
    with pytest.raises(KitError):
        write_png(path, np.zeros((4, 4, 7), np.uint8))
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_turns_the_picture(suffix, tmp_path, photograph):
    """Orientation 6: the camera was turned, the stored rows are the columns to show."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"turned{suffix}"
    lossless = {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix == ".jpg" else {}
    Image.fromarray(photograph[:40, :64]).save(path, exif=exif, **lossless)
    upright = np.rot90(photograph[:40, :64], -1)
    picture = read_picture(path)
    assert picture.shape == (64, 40, 3)
    assert np.abs(picture.astype(int) - upright).mean() < (5 if suffix == ".jpg" else 1e-9)


@pytest.mark.parametrize(("name", "mode", "becomes"), [("palette", "P", "RGB"), ("bitmap", "1", "L")])
def test_other_modes_of_files_become_colour_or_grey(name, mode, becomes, tmp_path, photograph):
    image = Image.fromarray(photograph[:16, :16]).convert(mode)
    image.save(tmp_path / f"{name}.png")
    assert np.array_equal(read_picture(tmp_path / f"{name}.png"), np.asarray(image.convert(becomes)))


@pytest.mark.parametrize("values", [np.full((8, 8), 0.5, np.float32), np.full((8, 8), 40_000, np.int32)])
def test_values_without_a_known_range_are_refused(values, tmp_path):
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(KitError, match="no known range; save it with 8 or 16 bits"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.9])
def test_cut_files_are_named(suffix, share, tmp_path, photograph):
    whole = io.BytesIO()
    Image.fromarray(photograph).save(whole, {".jpg": "jpeg", ".tif": "tiff"}.get(suffix, suffix[1:]))
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole.getvalue()[: int(share * len(whole.getvalue()))])
    with pytest.raises(KitError, match=f"cut{suffix}") as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)


def test_no_picture_at_all_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for name in ("text.png", "absent.png", "."):
        with pytest.raises(KitError, match="cannot read"):
            read_picture(tmp_path / name)


def test_the_message_of_a_decoder_becomes_one_line(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(image_files, "decode", fail)
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    with pytest.raises(KitError, match=r"a\.png as an image: first\\nsecond$"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("claimed", [(12_000, 12_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)], ids=str)
def test_a_header_that_claims_an_absurd_size_is_refused(claimed, tmp_path, photograph, monkeypatch):
    path = tmp_path / "bomb.png"
    write_png(path, photograph[:8, :8])
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", *claimed)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    monkeypatch.setattr(image_files, "available_memory", lambda: 4_000_000_000)
    with pytest.raises(KitError, match="bomb.png"):
        read_picture(path)


# --- the right colours, or a refusal


def png(pixels, depth, *chunks, exif=None):
    """A PNG file written byte by byte: pixels H×W×channels of `depth` bits, further chunks (name, content)."""
    height, width, channels = pixels.shape
    if depth == 16:
        rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        bits = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=3)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    raw = np.concatenate([np.zeros((height, 1), np.uint8), rows], 1).tobytes()
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    every = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in every)
    return b"\x89PNG\r\n\x1a\n" + body


def random(shape, bits=16):
    return np.random.default_rng([*shape, bits]).integers(0, 2**bits, shape).astype(np.uint16 if bits > 8 else np.uint8)


GREY = [(depth, 1) for depth in (1, 2, 4, 8, 16)]


@pytest.mark.parametrize(("depth", "channels"), [*GREY, *((d, c) for d in (8, 16) for c in (2, 3, 4))])
def test_png_of_every_depth(depth, channels, tmp_path):
    pixels = random((7, 13, channels), depth)
    (tmp_path / "a.png").write_bytes(png(pixels, depth))
    expected = pixels if depth == 16 else pixels * np.uint8(255 // (2**depth - 1))
    found = read_picture(tmp_path / "a.png")
    assert found.dtype == (np.uint16 if depth == 16 else np.uint8)
    assert np.array_equal(found, expected[..., 0] if channels == 1 else expected)


@pytest.mark.parametrize(("depth", "channels"), [*GREY, (8, 3), (16, 3)])
def test_a_transparent_colour_becomes_alpha(depth, channels, tmp_path):
    pixels = random((7, 13, channels), depth)
    colour = pixels[2, 3].astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(pixels, depth, (b"tRNS", colour)))
    found = read_picture(tmp_path / "a.png")
    top = 65535 if depth == 16 else 255
    assert np.array_equal(found[..., :-1], pixels if depth == 16 else pixels * np.uint8(255 // (2**depth - 1)))
    assert np.array_equal(found[..., -1], (pixels != pixels[2, 3]).any(2) * top)


def test_a_palette_with_transparency_becomes_rgba(tmp_path, photograph):
    palette = Image.fromarray(photograph[:16, :16]).quantize(8)
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert np.array_equal(read_picture(tmp_path / "a.png"), np.asarray(Image.open(tmp_path / "a.png").convert("RGBA")))
    assert read_picture(tmp_path / "a.png").shape[2] == 4


TIFF_KINDS = {
    "grey": (1, {"photometric": "minisblack"}),
    "grey-alpha": (2, {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"}),
    "colour": (3, {"photometric": "rgb"}),
    "colour-alpha": (4, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "planes": (3, {"photometric": "rgb", "planarconfig": "separate"}),
    "planes-alpha": (4, {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}),
    "white-is-0": (1, {"photometric": "miniswhite"}),
}


@pytest.mark.parametrize("kind", TIFF_KINDS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("byteorder", "bigtiff"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_of_every_kind(kind, bits, byteorder, compression, bigtiff, tmp_path):
    channels, options = TIFF_KINDS[kind]
    pixels = random((9, 12, channels), bits)
    stored = pixels[..., 0] if channels == 1 else pixels
    stored = np.moveaxis(stored, 2, 0).copy() if "planes" in kind else stored
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, byteorder=byteorder, compression=compression, bigtiff=bigtiff, **options)
    expected = 2**bits - 1 - pixels if kind == "white-is-0" else pixels
    found = read_picture(path)
    assert found.dtype == pixels.dtype
    assert np.array_equal(found, expected[..., 0] if channels == 1 else expected)


def lzw(data):
    """Bytes in TIFF's LZW code, without any compression: each by itself, in 9 bits."""
    bits = []
    for i, value in enumerate(data):
        bits += [256] if i % 200 == 0 else []  # before the codes grow to 10 bits
        bits.append(value)
    numbers = np.array([*bits, 257])
    return np.packbits((numbers[:, None] >> np.arange(8, -1, -1)) & 1).tobytes()


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("predictor", [1, 2])
def test_16_bit_colour_under_lzw(channels, predictor, tmp_path):
    """What Photoshop writes; Pillow alone gives 8 bits of it."""
    pixels = random((9, 12, channels))
    stored = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1])) if predictor == 2 else pixels
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros_like(pixels), photometric="rgb", byteorder="<", rowsperstrip=9)
    with tifffile.TiffFile(path) as file:  # the tags, and where the values are that change
        tags = {tag.code: tag.valueoffset for tag in file.pages[0].tags}
        strip = file.pages[0].dataoffsets[0]
    code = lzw(stored.astype("<u2").tobytes())
    content = bytearray(path.read_bytes())[:strip] + code
    content[tags[259] : tags[259] + 2] = struct.pack("<H", 5)
    size = struct.calcsize("<I")
    content[tags[279] : tags[279] + size] = struct.pack("<I", len(code))
    if predictor == 2:  # in place of a tag that says nothing here: Software
        entry = tags[305] - 8 if len(content) > tags[305] >= strip else content.find(struct.pack("<H", 305))
        content[entry : entry + 12] = struct.pack("<HHIHH", 317, 3, 1, 2, 0)
    path.write_bytes(content)
    assert np.array_equal(read_picture(path), pixels)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", ["png", "deep.png", "tif", "deep.tif", "planes.tif", "jpg", "webp"])
def test_every_orientation(orientation, suffix, tmp_path):
    """The eight of EXIF; 0 and 9 mean none."""
    pixels = random((8, 16, 3), 16 if "." in suffix else 8) // 16
    pixels = np.broadcast_to(pixels[:1, :1], pixels.shape).copy() if suffix == "jpg" else pixels
    pixels[:4, :8] = 200  # one corner
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    if suffix.endswith("tif"):
        planes = {"planarconfig": "separate"} if suffix == "planes.tif" else {}
        stored = np.moveaxis(pixels, 2, 0).copy() if planes else pixels
        tifffile.imwrite(path, stored, photometric="rgb", extratags=[(274, 3, 1, orientation, True)], **planes)
    elif suffix.endswith("png"):
        path.write_bytes(
            png(pixels, 16 if "deep" in suffix else 8, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
        )
    else:
        Image.fromarray(pixels).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {"quality": 98}))
    turns = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }
    expected = turns.get(orientation, lambda a: a)(pixels)
    found = read_picture(path)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (3 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize(
    "tag", [(0x011A, 2, 3, b"72\0\0"), (0x010F, 11, 1, b"\0\0\x80?"), (0x0103, 2, 4, b"abc\0")], ids=["x", "make", "c"]
)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_odd_metadata_does_not_matter(tag, suffix, tmp_path, photograph):
    """A turned image with a tag of an unusual type: Pillow's own turning fails on it."""
    entries = [tag, (0x0112, 3, 1, b"\6\0\0\0")]
    block = b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + block + bytes(4)
    Image.fromarray(photograph[:20, :30]).save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_picture(tmp_path / f"a.{suffix}").shape == (30, 20, 3)


REFUSED_TIFF = {
    "float": (np.zeros((4, 5), np.float32), {}, "no known range"),
    "float16": (np.zeros((4, 5), np.float16), {}, "no known range"),
    "signed": (np.zeros((4, 5), np.int16), {}, "no known range"),
    "32 bits": (np.zeros((4, 5), np.uint32), {}, "32-bit values have no known range"),
    "16-bit CMYK": (np.zeros((4, 5, 4), np.uint16), {"photometric": "separated"}, "SEPARATED"),
    "16-bit Lab": (np.zeros((4, 5, 3), np.uint16), {"photometric": "cielab"}, "CIELAB"),
    "16 bits premultiplied": (
        np.zeros((4, 5, 4), np.uint16),
        {"photometric": "rgb", "extrasamples": ["assocalpha"]},
        "premultiplied",
    ),
    "a fourth channel": (
        np.zeros((4, 5, 4), np.uint8),
        {"photometric": "rgb", "extrasamples": ["unspecified"]},
        "unstated meaning",
    ),
    "two more channels": (
        np.zeros((4, 5, 5), np.uint8),
        {"photometric": "rgb", "planarconfig": "contig", "extrasamples": ["unassalpha", "unspecified"]},
        "unstated meaning",
    ),
    "big-endian BigTIFF": (np.zeros((4, 5), np.uint8), {"bigtiff": True, "byteorder": ">"}, "big-endian BigTIFF"),
    "a preview": (np.zeros((4, 5), np.uint8), {"subfiletype": 1}, "a preview"),
    "a raw file": (np.zeros((4, 5), np.uint8), {"extratags": [(50706, 1, 4, b"\1\4\0\0", True)]}, "a preview"),
}


@pytest.mark.parametrize("case", REFUSED_TIFF)
def test_what_would_be_changed_is_refused_by_name(case, tmp_path):
    values, options, message = REFUSED_TIFF[case]
    tifffile.imwrite(tmp_path / "a.tif", values, **({"photometric": "minisblack"} | options))
    with pytest.raises(KitError, match=f"cannot read .*a.tif as an image: .*{message}") as caught:
        read_picture(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
@pytest.mark.parametrize("profile", [None, b"no profile"])
def test_cmyk_becomes_srgb(suffix, profile, tmp_path, photograph):
    image = Image.fromarray(photograph[:16, :16]).convert("CMYK")
    image.save(tmp_path / f"a.{suffix}", **({"icc_profile": profile} if profile else {}))
    found = read_image(tmp_path / f"a.{suffix}")
    assert np.array_equal(found.pixels, np.asarray(Image.open(tmp_path / f"a.{suffix}").convert("RGB")))
    assert found.icc_profile is None  # it does not describe these colours


def test_8_bit_lab_becomes_srgb(tmp_path):
    lab = np.broadcast_to(np.array([60, 20, -30]), (4, 5, 3))
    stored = np.stack([np.rint(lab[..., 0] * 2.55), lab[..., 1] % 256, lab[..., 2] % 256], 2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="cielab", iccprofile=PROFILE)
    expected = lab2rgb(lab.astype(float)) * 255
    found = read_image(tmp_path / "a.tif")
    assert np.abs(found.pixels - expected).max() < 10  # the two adapt to the white of the screen in other ways
    assert found.icc_profile is None


@pytest.mark.parametrize("kind", ["GIF", "BMP", "PPM", "ICO", "JPEG2000", "TGA"])
def test_only_four_formats_are_opened_whatever_the_name(kind, tmp_path, photograph):
    image = Image.fromarray(photograph[:16, :16])
    image.save(tmp_path / "a.png", kind)
    with pytest.raises(KitError, match="a.png as an image: it is not a PNG, JPEG, TIFF or WebP image"):
        read_picture(tmp_path / "a.png")


def test_postscript_is_never_run(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail("an external program"))
    (tmp_path / "photo.png").write_text(
        "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n0 0 20 20 rectfill\nshowpage\n%%EOF\n"
    )
    with pytest.raises(KitError, match="it is not a PNG, JPEG, TIFF or WebP image"):
        read_picture(tmp_path / "photo.png")


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_several_images_in_a_file_are_said(suffix, tmp_path, photograph):
    frames = [Image.fromarray(np.ascontiguousarray(photograph[i : i + 16, :16])) for i in range(3)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **lossless)
    with pytest.warns(UserWarning, match=f"a.{suffix} holds 3 images: the first is read"):
        found = read_picture(tmp_path / f"a.{suffix}")
    assert np.array_equal(found, np.asarray(frames[0]))


@pytest.mark.parametrize(
    "name",
    [b"caf\xe9.png", b"x" * 251 + b".png", "é".encode() * 125 + b".png", b" lead.png", b"-dash.png", b"new\nline.png"],
    ids=["latin-1", "255 bytes", "254 bytes", "space", "dash", "newline"],
)
def test_names(name, tmp_path):
    path = tmp_path / os.fsdecode(name)
    pixels = random((4, 5, 3))
    write_png(path, pixels)
    assert np.array_equal(read_picture(path), pixels)
    assert [os.fsencode(p.name) for p in tmp_path.iterdir()] == [name]


def test_a_name_is_one_line_in_a_message(tmp_path):
    path = tmp_path / os.fsdecode(b"a\nerror: all is lost\x1b[2J\xff.png")
    path.write_bytes(b"no image")
    with pytest.raises(KitError) as caught:
        read_picture(path)
    assert str(caught.value).isprintable()
    assert "a\\nerror: all is lost\\x1b[2J\\udcff.png" in str(caught.value)


@pytest.mark.parametrize("kind", ["planes", "grey-alpha", "white-is-0"])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("rows", [1, 9])
def test_a_cut_16_bit_tiff_is_named(kind, compression, rows, tmp_path):
    channels, options = TIFF_KINDS[kind]
    pixels = random((9, 12, channels))
    stored = np.moveaxis(pixels, 2, 0).copy() if kind == "planes" else pixels[..., 0] if channels == 1 else pixels
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, compression=compression, rowsperstrip=rows, **options)
    assert read_picture(path).shape[:2] == (9, 12)
    with tifffile.TiffFile(path) as file:
        last = file.pages[0].dataoffsets[-1]
    path.write_bytes(path.read_bytes()[: last + 5])
    with pytest.raises(KitError, match="a.tif as an image: it is cut short"):
        read_picture(path)


@pytest.mark.parametrize("kind", ["grey", "planes", "white-is-0"])
@pytest.mark.parametrize("tag", [256, 257])
def test_a_tiff_without_pixels_is_named(kind, tag, tmp_path):
    channels, options = TIFF_KINDS[kind]
    pixels = random((9, 12, channels))
    stored = np.moveaxis(pixels, 2, 0).copy() if kind == "planes" else pixels[..., 0]
    tifffile.imwrite(tmp_path / "a.tif", stored, **options)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags[tag].overwrite(0)
    with pytest.raises(KitError, match="it has no pixels"):
        read_picture(tmp_path / "a.tif")


def test_a_size_that_is_text_takes_no_memory(tmp_path):
    """Multiplied by the height, it would be gigabytes of text."""
    tifffile.imwrite(tmp_path / "a.tif", random((9, 12)))
    content = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        width, height = (tags[code].offset for code in (256, 257))
    content[width + 2 : width + 8] = struct.pack("<HI", 7, 4)  # four bytes of no type
    content[height + 2 : height + 12] = struct.pack("<HII", 4, 1, 1_000_000_000)
    (tmp_path / "a.tif").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(KitError, match="it has no pixels"):
        read_picture(tmp_path / "a.tif")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


# --- any size


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
def test_the_limit_is_the_kits_own(suffix, tmp_path, photograph, monkeypatch):
    """Pillow's neither refuses an image nor warns of it, and is what it was afterwards."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(photograph[:20, :30]).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_picture(path).shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(KitError, match="its 30×20 pixels are more than the 599 that the memory has room for"):
        read_picture(path, max_pixels=599)
    monkeypatch.setattr(image_files, "available_memory", lambda: 600 * image_files.BYTES_PER_PIXEL - 1)
    with pytest.raises(KitError, match="more than the 599"):
        read_picture(path)
    monkeypatch.setenv(image_files.MAX_PIXELS_VARIABLE, "600")
    assert read_picture(path).shape == (20, 30, 3)
    monkeypatch.setenv(image_files.MAX_PIXELS_VARIABLE, "many")
    with pytest.raises(KitError, match="is a number of pixels, not 'many'"):
        read_picture(path)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_chunk_that_claims_gigabytes_takes_none(tmp_path):
    pixels = random((8, 9, 3))
    content = bytearray(png(pixels, 16))
    place = content.find(b"IDAT")
    content[place - 4 : place] = struct.pack(">I", 0xF0000000)
    (tmp_path / "a.png").write_bytes(content)
    tracemalloc.start()
    assert np.array_equal(read_picture(tmp_path / "a.png"), pixels)  # which are all there
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_more_rows_and_columns_than_other_readers_take(tmp_path):
    for shape in ((1, 1_048_577), (1_048_577, 1)):
        pixels = random(shape, 8)
        write_png(tmp_path / "a.png", pixels)
        tifffile.imwrite(tmp_path / "a.tif", pixels)
        for name in ("a.png", "a.tif"):
            assert np.array_equal(read_picture(tmp_path / name), pixels)


# --- what is written


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_written_is_read_back(kind, channels, bits, tmp_path):
    """With profile, resolution and note; or it is refused, and nothing is written."""
    pixels = random((6, 7, channels), bits)
    pixels = pixels[..., 0] if channels == 1 else pixels
    path = tmp_path / f"a.{kind}"
    options = {"icc_profile": PROFILE, "dpi": (300.0, 150.0), "note": "glowlib 0123"}
    if (kind in ("jpeg", "webp") and bits == 16) or (kind == "jpeg" and channels in (2, 4)):
        with pytest.raises(KitError, match="choose png or tiff"):
            write_image(path, pixels, kind, **options)
        assert list(tmp_path.iterdir()) == []
        return
    write_image(path, pixels, kind, **options)
    found = read_image(path)
    assert found.format == kind
    if kind == "webp" and channels < 3:  # it has no grey
        pixels = np.dstack([pixels] * 3) if channels == 1 else pixels[..., [0, 0, 0, 1]]
    assert found.pixels.shape == pixels.shape
    if kind != "jpeg":
        assert np.array_equal(found.pixels, pixels)
    assert found.icc_profile == PROFILE
    assert found.dpi is None if kind == "webp" else found.dpi == pytest.approx((300, 150), abs=0.02)
    assert b"glowlib 0123" in path.read_bytes()


def test_other_readers_agree_on_what_is_written(tmp_path):
    """Pillow and libpng on 8 bits; on 16 bits Pillow keeps the high byte of colour, all of grey."""
    for channels in (1, 2, 3, 4):
        pixels = random((300, 700, channels), 8)  # several bands of rows
        write_image(tmp_path / "a.png", pixels, icc_profile=PROFILE, dpi=(72, 72))
        opened = Image.open(tmp_path / "a.png")
        assert np.array_equal(np.asarray(opened).reshape(pixels.shape), pixels)
        assert opened.info["icc_profile"] == PROFILE
    grey, colour = random((300, 700)), random((300, 700, 3))
    write_png(tmp_path / "grey.png", grey)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey.png")), grey)
    write_png(tmp_path / "colour.png", colour)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "colour.png")), colour >> 8)


def test_the_colour_chunks_of_png_are_kept(tmp_path):
    chunks = ((b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes([9, 16, 0, 1])))
    (tmp_path / "a.png").write_bytes(png(random((4, 5, 3)), 16, *chunks, (b"tEXt", b"Title\0x")))
    found = read_image(tmp_path / "a.png")
    assert found.colour_chunks == chunks
    write_image(tmp_path / "b.png", found.pixels, colour_chunks=found.colour_chunks)
    assert read_image(tmp_path / "b.png").colour_chunks == chunks
    assert Image.open(tmp_path / "b.png").info["gamma"] == 1


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.float32), np.zeros((4, 4, 5), np.uint8), np.zeros(4, np.uint8)])
def test_what_no_image_can_hold_is_not_written(bad, tmp_path):
    with pytest.raises(KitError, match="cannot write"):
        write_png(tmp_path / "a.png", bad)
    assert list(tmp_path.iterdir()) == []
