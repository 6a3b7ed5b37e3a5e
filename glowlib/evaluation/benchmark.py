"""Scores: methods × images × noise levels × protocols -> one tidy table, a row an image."""

import csv
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from ..data.datasets import load_dataset
from ..data.metrics import psnr, ssim
from ..data.noise import add_noise
from ..errors import KitError
from ..files import locked, sha256, shipped_folder, write_csv
from ..networks.pretrained import list_models, load_pretrained
from .classical import METHODS, restore
from .peers import PEERS, cbm3d, cbm3d_package, load_peer, peer_weights, restore_whole
from .tiling import denoise


class Key(NamedTuple):
    """What names one row of the table; as text, as in its CSV file."""

    method: str
    dataset: str
    image: str
    sigma: str
    protocol: str
    seed: str


KEYS = list(Key._fields)
SCORES = ["psnr", "ssim_grey", "ssim_rgb"]
# What else a row depends on: the clean image's pixels, where it was computed, and `fingerprint`.
INPUTS = ["image_hash", "device", "fingerprint"]
COLUMNS = [*KEYS, *SCORES, "seconds", *INPUTS]

CLASSICAL = ("noisy", *METHODS)  # "noisy" is the noisy image itself, scored as a method like any other
PACKAGE = Path(__file__).parents[1]
# The code that a score of each kind of method depends on, and the libraries.
EVERY = ("data/images.py", "data/metrics.py", "data/noise.py", "evaluation/benchmark.py")
COMPUTING = {
    "classical": (*EVERY, "evaluation/classical.py", "evaluation/classical.yaml"),
    "network": (*EVERY, "evaluation/tiling.py", "networks/**/*.py"),
    "peer": (*EVERY, "evaluation/peers.py"),
    "cbm3d": (*EVERY, "evaluation/peers.py"),
}
LIBRARIES = ("torch", "numpy", "scipy", "scikit-image", "PyWavelets", "timm", "einops")


def kind(method: str) -> str:
    """A key of COMPUTING: "classical", "peer" (another author's network), "cbm3d", or else "network"."""
    if method in CLASSICAL:
        return "classical"
    return "peer" if method in PEERS else "cbm3d" if method == "cbm3d" else "network"


def split_tile(name: str) -> tuple:
    """("sglownet-small", "auto") for "sglownet-small"; "…@64" has tiles of 64 pixels, "…@whole" none (None)."""
    network, _, tile = name.rpartition("@")
    if network and (tile.isdecimal() or tile == "whole"):
        return network, None if tile == "whole" else int(tile)
    return name, "auto"


def weights_file(method: str) -> Path | None:
    """The weights file of a network, ours or another author's; None for a method without weights."""
    if kind(method) in ("classical", "cbm3d"):
        return None
    if method in PEERS:
        return peer_weights(method)
    name, _ = split_tile(method)
    shipped = shipped_folder() / name / "model.safetensors"
    return shipped if shipped.exists() else Path(name)


@cache
def code_fingerprint(kind: str) -> str:
    """Hash of the code and the libraries that scores of this kind of method depend on."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in COMPUTING[kind] for path in PACKAGE.glob(pattern)}):
        digest.update(path.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library} {version(library)}".encode())
    if kind == "cbm3d":
        digest.update(f"{version('bm3d')} {version('bm4d')}".encode())
    return digest.hexdigest()


def fingerprint(method: str) -> str:
    """What a method's rows depend on beside image and device, in 12 hexadecimal digits: code, libraries, weights."""
    weights = weights_file(method)
    return sha256(code_fingerprint(kind(method)).encode() + (weights.read_bytes() if weights else b""))[:12]


def image_hash(image: np.ndarray) -> str:
    """SHA-256 of an image's size, type and pixels, the first 16 hexadecimal digits."""
    return sha256(f"{image.shape} {image.dtype} ".encode() + np.ascontiguousarray(image).tobytes())[:16]


def open_method(name: str, device="cpu") -> Callable[[np.ndarray, float], np.ndarray]:
    """A function (noisy image, σ) -> restored image.

    Args:
        name: "noisy", a classical method (see classical.py), "dncnn", "ffdnet" or "cbm3d" (see peers.py), a shipped
            model, or a weights file; the last two may name their tiles: "sglownet-small@64", "sglownet-small@whole".
        device: where networks compute; the other methods compute on the CPU.

    Returns:
        A function of a float array H×W×3, clean values in [0, 1], and the noise level on the 0 to 255 scale. Classical
        methods, FFDNet and CBM3D use the level; the other networks are blind.

    Raises:
        KitError: an unknown name, or weights or a package that are not there.
    """
    if name == "noisy":
        return lambda noisy, sigma: noisy
    if name in METHODS:
        return partial(restore, name)
    if name == "cbm3d":
        cbm3d_package()  # a missing package is reported before anything is computed
        return cbm3d
    if name in PEERS:
        return partial(restore_whole, load_peer(name).to(device))
    network, tile = split_tile(name)
    shipped = list_models().shipped
    if network not in shipped and not Path(network).exists():
        known = ", ".join([*CLASSICAL, *PEERS, "cbm3d", *shipped])
        raise KitError(f"unknown method {name!r}; known are: {known}")
    model = load_pretrained(network).to(device)
    return lambda noisy, sigma: denoise(model, noisy, tile=tile)


def is_finished(row: Mapping) -> bool:
    """Whether a row of an earlier run is whole: no cell is missing, and the scores are numbers."""
    if None in row or None in row.values() or not row["fingerprint"]:
        return False
    try:
        for name in (*SCORES, "seconds"):
            float(row[name])
    except ValueError:
        return False
    return True


def read_rows(path: Path) -> list[dict]:
    """The finished rows of an earlier run as text; a last line that was cut off is left out.

    Raises:
        KitError: the file cannot be read, or is another table.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames not in (None, COLUMNS):
                raise KitError(f"{path} is another kind of table: name a new file, or the scores of an earlier run")
            return [row for row in reader if is_finished(row)]
    except OSError as error:
        raise KitError(f"cannot read the table {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise KitError(f"the table {path} is damaged ({error}): remove it, or name a new file") from error


def images_by_name(datasets: Mapping[str, Sequence]) -> dict:
    """{(dataset, file name): image}, refusing a name that comes twice."""
    found = {}
    for dataset, images in datasets.items():
        for name, image in images:
            if (dataset, name) in found:
                raise KitError(f"two images of {dataset} are called {name}: give each a name of its own")
            found[dataset, name] = image
    return found


def score(method: Callable, clean: np.ndarray, key: Key) -> dict:
    """Add noise to one image, restore and score it: {score: text}, and the seconds that restoring took."""
    sigma = float(key.sigma)
    noisy = add_noise(clean, sigma, seed=int(key.seed), name=key.image, protocol=key.protocol)
    began = time.perf_counter()
    restored = method(noisy, sigma)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    scores = (psnr(clean, restored), ssim(clean, restored, "grey"), ssim(clean, restored, "rgb"))
    return {name: f"{value:.6f}" for name, value in zip(SCORES, scores, strict=True)} | {"seconds": f"{seconds:.3f}"}


def run_benchmark(
    datasets: Iterable[str] | Mapping[str, Sequence],
    methods: Sequence[str],
    sigmas: Sequence[float],
    path: Path,
    *,
    protocols: Sequence[str] = ("float",),
    seeds: Sequence[int] = (0,),
    device="cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Score every method on every image.

    Rows that are in the table already are kept if the image, device, code, libraries and weights are the same, so that
    an interrupted run continues; rows of other methods and images stay. An image that fails is left out, and
    named in the error after all others are done. A second run that writes the same table is refused.

    Args:
        datasets: names for `load_dataset`, or {name: [(file name, image)]} with uint8 arrays H×W×3.
        methods: names for `open_method`.
        sigmas: noise levels, 0 to 255 scale.
        path: the table's CSV file, written row by row.
        protocols: of the noise, "float" or "8bit".
        seeds: of the noise.
        device: where networks compute.
        progress: whether to show a progress bar.

    Returns:
        The tidy table with COLUMNS: PSNR in dB, SSIM under both protocols (see metrics.py), seconds of wall time.

    Raises:
        KitError: an unknown method or a file of another kind, before anything is computed; images that failed, at
            the end.
    """
    torch.backends.cudnn.allow_tf32 = False  # scores do not depend on the processor
    path, device = Path(path), torch.device(device)
    if not isinstance(datasets, Mapping):
        datasets = {name: load_dataset(name) for name in datasets}
    images = images_by_name(datasets)
    opened = {name: open_method(name, device) for name in methods}
    devices = {name: device.type if kind(name) in ("network", "peer") else "cpu" for name in methods}
    prints = {name: fingerprint(name) for name in methods}
    hashes = {name: image_hash(image) for name, image in images.items()}
    wanted = [
        Key(method, dataset, image, f"{sigma:g}", protocol, str(seed))
        for dataset, image in images
        for protocol in protocols
        for sigma in sigmas
        for seed in seeds
        for method in methods
    ]

    def inputs(key):
        return {
            "image_hash": hashes[key.dataset, key.image],
            "device": devices[key.method],
            "fingerprint": prints[key.method],
        }

    def is_current(key, row):
        """Rows of these methods need today's code and weights; those of these images, the same pixels and device."""
        if key in keys:
            return row.items() >= inputs(key).items()
        return row["fingerprint"] == prints.get(key.method, row["fingerprint"])

    keys = set(wanted)
    with locked(path):
        earlier = {Key(*(row[name] for name in KEYS)): row for row in read_rows(path)}
        kept = {key: row for key, row in earlier.items() if is_current(key, row)}
        others = [row for key, row in kept.items() if key not in keys]
        rows = {key: kept[key] for key in wanted if key in kept}
        write_csv(path, COLUMNS, [*rows.values(), *others])
        failures = {}
        try:
            with path.open("a", newline="") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                for key in tqdm(wanted, unit="score", disable=not progress):
                    if key in rows:
                        continue
                    try:
                        scores = score(opened[key.method], images[key.dataset, key.image], key)
                    except Exception as error:  # whatever a method raises, the other images are scored
                        reason = (str(error).splitlines() or [""])[0]
                        failures.setdefault((key.dataset, key.image), f"{key.method}: {type(error).__name__}: {reason}")
                        continue
                    rows[key] = key._asdict() | scores | inputs(key)
                    writer.writerow(rows[key])
                    file.flush()
        except OSError as error:
            raise KitError(f"cannot write the table {path}: {error.strerror}; the rows in it are kept") from error
        found = [rows[key] for key in wanted if key in rows]
        write_csv(path, COLUMNS, [*found, *others])
    if failures:
        named = "; ".join(f"{dataset}/{image} ({reason})" for (dataset, image), reason in failures.items())
        missing = len(wanted) - len(found)
        raise KitError(f"{missing} of {len(wanted)} scores failed, the others are in {path}: {named}")
    table = pd.DataFrame(found, columns=COLUMNS)
    numbers = ["sigma", "seed", "seconds", *SCORES]
    table[numbers] = table[numbers].apply(pd.to_numeric)
    return table
