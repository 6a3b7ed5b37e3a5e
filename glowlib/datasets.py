"""Photographs: where they are, and what they are called."""

import hashlib
import os
from pathlib import Path

import skimage.data

from .errors import KitError
from .images import read_picture

DATA_VARIABLE = "GLOWLIB_DATA"

# Bundled with scikit-image's wheel: the quick profile needs no download.
BUNDLED = ("astronaut", "chelsea", "coffee", "rocket", "motorcycle")


def data_folder():
    """The folder that holds the datasets: the environment variable GLOWLIB_DATA, or data/ here."""
    return Path(os.environ.get(DATA_VARIABLE, "data"))


def bundled(name):
    """A photograph from scikit-image, H×W×3 uint8."""
    return skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()


def load_dataset(name):
    """The pictures of a set, [(canonical file name, uint8 array H×W×3)], sorted by name.

    name: "bundled" (scikit-image's photographs), or a folder inside `data_folder()`.
    Raises KitError where the folder is missing.
    """
    if name == "bundled":
        return [(f"{n}.png", bundled(n)) for n in sorted(BUNDLED)]
    folder = data_folder() / name
    paths = sorted(p for p in folder.glob("*") if p.suffix.lower() in (".png", ".jpg", ".jpeg"))
    if not paths:
        raise KitError(f"no pictures of {name} in {folder}: put them there, or set {DATA_VARIABLE} to the folder above")
    return [(p.name, read_picture(p)) for p in paths]


def fingerprints(name):
    """{file name: SHA-256} of a set: of the decoded pixels, or of the file where it is JPEG, whose decoders differ."""

    def of_file(path):
        return hashlib.sha256(path.read_bytes()).hexdigest()

    found = {image: hashlib.sha256(picture.tobytes()).hexdigest() for image, picture in load_dataset(name)}
    if name == "bundled":
        return found | {"rocket.png": of_file(Path(skimage.data.__file__).with_name("rocket.jpg"))}
    folder = data_folder() / name
    return {n: of_file(folder / n) if n.lower().endswith((".jpg", ".jpeg")) else h for n, h in found.items()}
