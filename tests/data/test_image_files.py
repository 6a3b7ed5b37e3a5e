"""Picture files with 8 and 16 bits, read and written."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from glowlib.data.image_files import read_picture, write_png
from glowlib.errors import KitError

few = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda side: st.sampled_from([side, (*side, 1), (*side, 2), (*side, 3), (*side, 4)])
)


@st.composite
def integer_pictures(draw):
    return draw(hnp.arrays(draw(st.sampled_from([np.uint8, np.uint16])), draw(shapes)))


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
    with pytest.raises(Exception):  # noqa: B017  OpenCV's own error, for a kind nobody should pass
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


@pytest.mark.parametrize("claimed", [(12_000, 12_000), (60_000, 60_000)], ids=str)
def test_decompression_bombs_are_refused(claimed, tmp_path, photograph):
    """A header that claims more pixels than Pillow deems safe, twice and forty times over."""
    import struct
    import zlib

    path = tmp_path / "bomb.png"
    write_png(path, photograph[:8, :8])
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", *claimed)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(KitError, match="bomb.png"):
        read_picture(path)
