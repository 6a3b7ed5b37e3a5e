"""Photographs by name: where they are, what they are called, and whether they are the right ones."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import skimage
import skimage.data

from ..errors import KitError
from ..files import DATA_VARIABLE, data_folder, sha256
from .download import fetch
from .image_files import SUFFIXES, read_picture, to_colour

# Bundled with scikit-image's wheel: the quick profile needs no download.
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle")

# Sets whose every picture is known by hash, in manifest.csv; and how many pictures the others have.
KNOWN = ("Kodak24", "CBSD68", "BSD400")
COUNTS = {"DIV2K": 900, "McMaster": 18, "Urban100": 100}


def bundled(name):
    """A photograph from scikit-image, H×W×3 uint8."""
    return skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()


@cache
def manifest(name):
    """{canonical file name: (height, width, SHA-256)} of a known set."""
    with Path(__file__).with_name("manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    return {row["file"]: (int(row["height"]), int(row["width"]), row["sha256"]) for row in rows}


def fingerprint(path, picture):
    """SHA-256 of the decoded pixels, or of the file where it is JPEG, whose decoders differ."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg")
    return sha256(path if jpeg else np.ascontiguousarray(picture).tobytes())


def check_picture(name, file, path, picture):
    """Refuse a picture that is not the one the manifest means, and say what differs."""
    height, width, expected = manifest(name)[file]
    if picture.shape[:2] != (height, width):
        found = f"is {picture.shape[1]}×{picture.shape[0]} pixels, not {width}×{height}"
    elif fingerprint(path, picture) != expected:
        found = "has the right size, but other pixels"
    else:
        return
    raise KitError(f"{path} {found}: another copy of {name}, whose scores differ; move the folder away to fetch it")


def check_file(name, file, path):
    """`check_picture` of a file that was just fetched."""
    check_picture(name, file, path, read_picture(path))


def find_files(name):
    """{canonical file name: path} of the pictures of a set that are in its folder.

    A picture of a known set that was put there under another name is recognised by its pixels.
    """
    folder = data_folder() / name
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    if name not in KNOWN:
        return {path.name: path for path in paths}
    wanted = manifest(name)
    found = {path.name: path for path in paths if path.name in wanted}
    if len(found) < len(wanted):
        by_hash = {entry[2]: file for file, entry in wanted.items()}
        for path in paths:
            if path.name not in found:
                file = by_hash.get(fingerprint(path, read_picture(path)))
                found |= {file: path} if file else {}
    extra = [path for path in paths if path not in found.values()]
    if extra and len(found) < len(wanted):
        raise KitError(
            f"{extra[0]} is no picture of {name}, and {len(wanted) - len(found)} of {len(wanted)} are not there: "
            f"this is another copy, whose scores differ; move the folder away to fetch {name}"
        )
    return dict(sorted(found.items()))


def load_dataset(name):
    """The pictures of a set, [(canonical file name, uint8 array H×W×3)], sorted by name, each checked.

    name: "bundled" (scikit-image's photographs); Kodak24, CBSD68, BSD400 (checked by count, size and hash,
    and fetched into `data_folder()` if not there); DIV2K (its archives are checked when they are fetched); McMaster,
    Urban100 (bring your own, checked by count); or any other folder of pictures in `data_folder()`.
    Of your own pictures, 16 bits are rounded to 8, grey is repeated and alpha left out.
    Raises KitError, one line, for a wrong copy, an unreadable picture, or a set that is neither here nor to be had.
    """
    return list(iterate_dataset(name))


def iterate_dataset(name):
    """As `load_dataset`, one picture after the other, for sets that are larger than the memory."""
    if name == "bundled":
        yield from ((f"{n}.png", bundled(n)) for n in sorted(BUNDLED))
        return
    found = find_files(name)
    expected = len(manifest(name)) if name in KNOWN else COUNTS.get(name)
    if len(found) != expected and (name in KNOWN or name == "DIV2K"):
        fetch(name, data_folder() / name, [file for file in manifest(name) if file not in found], check_file)
        found = find_files(name)
    if not found or (expected is not None and len(found) != expected):
        raise KitError(
            f"{data_folder() / name} holds {len(found)} of {expected or 'the'} pictures of {name}: put them "
            f"there, or set {DATA_VARIABLE} to the folder that holds {name}"
        )
    for file, path in found.items():
        picture = read_picture(path)
        if name in KNOWN:
            check_picture(name, file, path, picture)
        yield file, to_colour(picture)


def stamp(name):
    """What changes when the files of a set do, without decoding them: [[canonical file name, bytes, mtime]]."""
    if name == "bundled":
        return [[f"{n}.png", skimage.__version__] for n in sorted(BUNDLED)]
    return [[file, path.stat().st_size, path.stat().st_mtime_ns] for file, path in find_files(name).items()]


def fingerprints(name):
    """{canonical file name: SHA-256} of a set, as `fingerprint` defines it."""
    if name == "bundled":
        folder = Path(skimage.data.__file__).parent
        origins = {n: folder / ("rocket.jpg" if n == "rocket" else f"{n}.png") for n in BUNDLED}
        return {f"{n}.png": fingerprint(origins[n], bundled(n)) for n in sorted(BUNDLED)}
    pictures, paths = load_dataset(name), find_files(name)
    return {file: fingerprint(paths[file], picture) for file, picture in pictures}
