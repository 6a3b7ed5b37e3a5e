"""Training pairs as the paper prepared them, once, as files: `python -m glowlib.patches --dataset DIV2K --out pairs`.

The kit's own recipe needs none of this: it draws crops and noise as it trains (`glowlib.batches`).
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from .datasets import iterate_dataset
from ..errors import KitError, exit_clearly
from .images import write_png
from .noise import to_8bit_by_truncation
from ..training.run_folder import write_csv

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

    dataset: a name for `glowlib.datasets.load_dataset`. crops: of each picture. Call again after an interruption:
    files that are there are not written again. The manifest comes last, so a folder with one is complete.
    Raises KitError for a folder that was begun with another dataset, side, σ or seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset": dataset, "side": side, "sigma": sigma, "seed": seed}
    begun = folder / "settings.json"
    if begun.exists() and json.loads(begun.read_text()) != settings:
        raise KitError(f"{folder} was begun with other settings ({begun.read_text().strip()}): give another --out")
    begun.write_text(json.dumps(settings) + "\n")
    for part in ("clean", "noisy"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for name, picture in tqdm(iterate_dataset(dataset), unit="picture"):
        for number in range(crops):
            file = f"{Path(name).stem}_{number:02d}.png"
            clean, noisy, top, left, level = pair(picture, name, number, side=side, sigma=sigma, seed=seed)
            hashes = []
            for part, image in (("clean", clean), ("noisy", noisy)):
                hashes.append(hashlib.sha256(image.tobytes()).hexdigest())
                if not (folder / part / file).exists():
                    write_png(folder / part / file, image)
            rows.append(dict(zip(COLUMNS, (file, name, top, left, side, level, seed, *hashes), strict=True)))
    write_csv(folder / "manifest.csv", COLUMNS, rows)
    return rows


@exit_clearly
def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m glowlib.patches", description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="DIV2K", help="a set that glowlib.datasets knows")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pairs")
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


if __name__ == "__main__":
    main()
