"""Training pairs as the paper prepared them, once, as files: `python -m glowlib pairs --dataset DIV2K --out pairs`.

The kit's own recipe needs none of this: it draws crops and noise as it trains (`glowlib.data.crops`).
"""

import argparse
import csv
import hashlib
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..errors import KitError, exit_clearly
from ..files import data_folder, sha256, user_path, write_csv
from .crops import PictureStore
from .datasets import iterate_dataset
from .image_files import read_picture, write_png
from .noise import to_8bit_by_truncation

COLUMNS = ("file", "source", "top", "left", "side", "sigma", "seed", "sha256_clean", "sha256_noisy")


def pair(picture, name, number, *, side=255, sigma=None, seed=0):
    """(clean, noisy, top, left, σ): crop `number` of a picture with the paper's noise, uint8 arrays side×side×3.

    sigma: an integer noise level; None draws round(5 + 45·uniform), the paper's blind training. The paper adds
    noise of σ/256 (not σ/255) in [0, 1] units, clips, and truncates to 8 bits. Depends on the arguments alone.
    """
    if min(picture.shape[:2]) < side:
        raise KitError(f"{name} is smaller than a crop of {side} pixels: remove it, or take a smaller --side")
    digest = hashlib.sha256(f"{seed}|{name}|{number}".encode()).digest()
    rng = np.random.default_rng(list(digest))
    top, left = (int(rng.integers(n - side + 1)) for n in picture.shape[:2])
    clean = np.ascontiguousarray(picture[top : top + side, left : left + side])
    level = round(5 + 45 * rng.random()) if sigma is None else sigma
    noisy = torch.from_numpy(clean / np.float32(255) + level / 256 * rng.standard_normal(clean.shape, np.float32))
    noisy = (to_8bit_by_truncation(noisy) * 255).round().to(torch.uint8).numpy()
    return clean, noisy, top, left, level


def prepare(dataset, folder, *, crops=20, side=255, sigma=None, seed=0):
    """Write pairs folder/clean/*.png and folder/noisy/*.png, and manifest.csv, which is returned as a list of rows.

    dataset: a name for `glowlib.data.datasets.load_dataset`. crops: of each picture. Call again after an interruption:
    files that are there are not written again. The manifest comes last, so a folder with one is complete.
    Raises KitError for a folder that was begun with another dataset, side, σ or seed, for numbers out of range, and for
    two images whose names differ in the suffix only.
    """
    for name, value, least in (("crops", crops, 1), ("side", side, 8), ("sigma", sigma, 0), ("seed", seed, 0)):
        if value is not None and value < least:
            raise KitError(f"--{name} is a number from {least} up, not {value}")
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset": dataset, "side": side, "sigma": sigma, "seed": seed}
    begun = folder / "settings.json"
    if begun.exists() and (found := begun.read_text(errors="replace").strip()) != json.dumps(settings):
        raise KitError(f"{folder} was begun with other settings ({found}): give another --out")
    begun.write_text(json.dumps(settings) + "\n")
    for part in ("clean", "noisy"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows, names = [], {}
    for name, picture in tqdm(iterate_dataset(dataset), unit="picture"):
        if (other := names.setdefault(Path(name).stem, name)) != name:
            raise KitError(f"the pairs of {other} and {name} would have the same names: rename one of the two")
        for number in range(crops):
            file = f"{Path(name).stem}_{number:02d}.png"
            clean, noisy, top, left, level = pair(picture, name, number, side=side, sigma=sigma, seed=seed)
            hashes = []
            for part, image in (("clean", clean), ("noisy", noisy)):
                hashes.append(sha256(image.tobytes()))
                if not (folder / part / file).exists():
                    write_png(folder / part / file, image)
            rows.append(dict(zip(COLUMNS, (file, name, top, left, side, level, seed, *hashes), strict=True)))
    write_csv(folder / "manifest.csv", COLUMNS, rows)
    return rows


def pairs_folder(config: Any) -> Path:
    """The folder of the pairs of a `TrainingConfig`; the folder's name of pairs with one noise level ends with it."""
    return data_folder() / (config.pairs if config.level is None else f"{config.pairs}-sigma{config.level:g}")


def read_pairs(config: Any, held_out: set[str]) -> tuple[list[str], Iterator[tuple[str, np.ndarray]]]:
    """Read prepared pairs.

    Args:
        config: a `TrainingConfig`.
        held_out: names of images whose pairs are left out.
    Returns:
        (stamp for a `PictureStore`, iterator of (name, image): the clean and the noisy image of each pair in turn).
    Raises:
        KitError: for pairs that are not there, or a damaged manifest.
    """
    folder = pairs_folder(config)
    try:
        with (folder / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        if any(None in row.values() or Path(row["file"]).name != row["file"] or not row["source"] for row in rows):
            raise ValueError("it names no file of the folder")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise KitError(f"{folder / 'manifest.csv'} is damaged ({error}): prepare the pairs again") from error
    except OSError as error:
        level = "" if config.level is None else f" --sigma {config.level:g}"
        raise KitError(
            f"there are no prepared pairs in {folder}: make them with "
            f"python -m glowlib pairs --dataset {config.data} --out {folder}{level} (and --crops as the profile says)"
        ) from error
    files = [row["file"] for row in rows if row["source"] not in held_out]
    paths = chain.from_iterable((folder / "clean" / file, folder / "noisy" / file) for file in files)
    stamp = [folder.name, *sorted(held_out), *(f"{row['file']} {row['sha256_noisy']}" for row in rows)]
    return stamp, ((f"{path.parent.name}/{path.name}", read_picture(path)) for path in paths)


class PreparedPairs(Dataset):
    """Position -> (noisy, clean), float32 (3, crop, crop) in [0, 1]: the paper's pairs.

    Each comes once an epoch, in random order. A pair is padded by reflection at the right and bottom to the crop, and
    gets one of nine equally likely augmentations: the eight symmetries of the square, the identity twice.
    """

    def __init__(self, store: PictureStore, config: Any):
        """
        Args:
            store: the clean and the noisy image of each pair in turn, from `read_pairs`.
            config: a `TrainingConfig`.
        """
        self.store, self.config = store, config
        self.epoch, self.order = None, None

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        count, seed = len(self.store) // 2, self.config.seed
        epoch, place = divmod(position, count)
        if epoch != self.epoch:
            self.epoch, self.order = epoch, np.random.default_rng([seed, 1, epoch]).permutation(count)
        which = 2 * int(self.order[place])
        form = np.random.default_rng([seed, position]).integers(9) % 8
        return self.prepared(which + 1, form), self.prepared(which, form)

    def prepared(self, i: int, form: int) -> torch.Tensor:
        """Image i of the store, padded, in symmetry `form` of 0 to 7."""
        image = self.store[i]
        bottom, right = (self.config.crop - side for side in image.shape[:2])
        image = np.rot90(np.pad(image, ((0, bottom), (0, right), (0, 0)), "reflect"), form % 4)
        image = image[:, ::-1] if form >= 4 else image
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / 255)


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib pairs", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="DIV2K", help="a set that glowlib.data.datasets knows")
    parser.add_argument("--out", type=user_path, required=True, help="folder for the pairs")
    parser.add_argument("--crops", type=int, default=20, help="crops of each picture")
    parser.add_argument("--side", type=int, default=255, help="pixels")
    parser.add_argument("--sigma", type=int, help="one noise level; left out, each crop has its own, 5 to 50")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    options = {key: getattr(args, key) for key in ("crops", "side", "sigma", "seed")}
    try:
        rows = prepare(args.dataset, args.out, **options)
    except OSError as error:
        raise KitError(f"cannot write pairs into {args.out}: {error.strerror or error}") from error
    print(f"{len(rows)} pairs in {args.out}")
