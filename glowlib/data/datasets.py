"""Data sets by name: where their images lie, what they are called, and whether they are the right ones."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import skimage
import skimage.data

from ..errors import KitError, printable
from ..files import DATA_VARIABLE, data_folder, sha256
from .download import fetch
from .image_files import SUFFIXES, read_picture, to_colour

# Bundled with scikit-image's wheel: the quick profile needs no download.
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle")

# Sets whose every image is known by hash, in manifest.csv; and how many images the others have.
KNOWN = ("Kodak24", "CBSD68", "BSD400", "Urban100")
COUNTS = {"DIV2K": 900, "McMaster": 18}


def bundled(name: str) -> np.ndarray:
    """A photograph from scikit-image, H×W×3 uint8."""
    return skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()


@cache
def manifest(name: str) -> dict[str, tuple[int, int, str]]:
    """{canonical file name: (height, width, SHA-256)} of a known set."""
    with Path(__file__).with_name("manifest.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == name]
    return {row["file"]: (int(row["height"]), int(row["width"]), row["sha256"]) for row in rows}


def fingerprint(path: Path, image: np.ndarray) -> str:
    """SHA-256 of the decoded pixels, or of the file where it is JPEG, whose decoders differ."""
    jpeg = path.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")
    return sha256(path if jpeg else np.ascontiguousarray(image).tobytes())


def check_image(name: str, file: str, path: Path, image: np.ndarray) -> None:
    """Refuse an image that is not the one of the manifest, and say what differs."""
    height, width, expected = manifest(name)[file]
    if image.shape[:2] != (height, width):
        found = f"is {image.shape[1]}×{image.shape[0]} pixels, not {width}×{height}"
    elif fingerprint(path, image) != expected:
        found = "has the right size, but other pixels"
    else:
        return
    raise KitError(f"{path} {found}: another copy of {name}, whose scores differ; move the folder away to fetch it")


def check_file(name: str, file: str, path: Path) -> None:
    """`check_image` of a file that was just fetched."""
    check_image(name, file, path, read_picture(path))


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and its sub-folders, by their suffix, sorted; without dot files (a Mac's ._x.png)."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and not path.is_dir()
    )


def find_files(name: str) -> dict[str, Path]:
    """{canonical file name: path} of the images of a set that are in its folder.

    An image of a known set that was put there under another name is recognised by its pixels.
    """
    if not name.strip(". ") or Path(name).name != name:
        raise KitError(f"a data set is named by its folder in {data_folder()}, and {name!r} is no name of a folder")
    paths = image_files(data_folder() / name)
    if name not in KNOWN:
        found = {}
        for path in paths:
            other = found.setdefault(printable(path.name), path)
            if other is not path:
                raise KitError(f"{printable(other)} and {printable(path)} have one name: rename one of them")
        return found
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
            f"{printable(extra[0])} is no image of {name}, and {len(wanted) - len(found)} of {len(wanted)} are not "
            f"there: this is another copy, whose scores differ; move the folder away to fetch {name}"
        )
    return dict(sorted(found.items()))


def load_dataset(name: str) -> list[tuple[str, np.ndarray]]:
    """The images of a set, each checked.

    Args:
        name: "bundled" (scikit-image's photographs); Kodak24, CBSD68, BSD400, Urban100 (checked by count, size and
            hash, and fetched into `data_folder()` if not there); DIV2K (its archives are checked when they are
            fetched); McMaster (bring your own, checked by count); or any other folder of images in `data_folder()`.
    Returns:
        [(canonical file name, uint8 array H×W×3)], sorted by name. Of your own images, 16 bits are rounded to 8, grey
        is repeated and alpha left out.
    Raises:
        KitError: one line, for a wrong copy, an image that cannot be read, two of one name, or a set that is neither
            here nor can be fetched.
    """
    return list(iterate_dataset(name))


def iterate_dataset(name: str):
    """As `load_dataset`, one image after the other, for sets that are larger than the memory."""
    if name == "bundled":
        if (data_folder() / name).is_dir():
            raise KitError(f"{data_folder() / name} has the name of scikit-image's photographs: rename the folder")
        yield from ((f"{n}.png", bundled(n)) for n in sorted(BUNDLED))
        return
    found = find_files(name)
    expected = len(manifest(name)) if name in KNOWN else COUNTS.get(name)
    if len(found) != expected and (name in KNOWN or name == "DIV2K"):
        fetch(name, data_folder() / name, [file for file in manifest(name) if file not in found], check_file)
        found = find_files(name)
    if not found or (expected is not None and len(found) != expected):
        raise KitError(
            f"{data_folder() / name} holds {len(found)} of {expected or 'the'} images of {name}: put them "
            f"there, or set {DATA_VARIABLE} to the folder that holds {name}"
        )
    for file, path in found.items():
        image = read_picture(path)
        if name in KNOWN:
            check_image(name, file, path, image)
        yield file, to_colour(image)


def stamp(name: str) -> list[list]:
    """A value that changes when the files of a set do, without decoding them: [[canonical file name, bytes, mtime]]."""
    if name == "bundled":
        return [[f"{n}.png", skimage.__version__] for n in sorted(BUNDLED)]
    return [[file, path.stat().st_size, path.stat().st_mtime_ns] for file, path in find_files(name).items()]


def fingerprints(name: str) -> dict[str, str]:
    """{canonical file name: SHA-256} of a set, as `fingerprint` defines it."""
    if name == "bundled":
        folder = Path(skimage.data.__file__).parent
        origins = {n: folder / ("rocket.jpg" if n == "rocket" else f"{n}.png") for n in BUNDLED}
        return {f"{n}.png": fingerprint(origins[n], bundled(n)) for n in sorted(BUNDLED)}
    images, paths = load_dataset(name), find_files(name)
    return {file: fingerprint(paths[file], image) for file, image in images}
