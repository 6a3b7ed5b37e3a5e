"""Training pairs: crops of photographs with fresh noise, each a function of (seed, position) alone.

Since a sample depends on nothing else, any process, on any machine, at any time makes the same one: a
resumed run sees what the uninterrupted one would have seen.
"""

import json
import os

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..files import atomic_write
from .image_files import to_colour
from .noise import to_8bit_by_truncation
from .synthetic import drawing


class PictureStore:
    """Pictures decoded once into one memory-mapped file, so that opening a crop costs nothing."""

    def __init__(self, pictures, folder, stamp=None):
        """pictures: iterable of (name, uint8 array H×W×3 or H×W), gone through only if they are not in the store.

        folder: where the store lies, or will lie. stamp: what identifies the pictures (JSON); a store that was made
        with another one, or without one, is made anew.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.data, listing = folder / "pictures.bin", folder / "pictures.json"
        # The listing is written last: where it is missing or torn, the store is.
        try:
            found = json.loads(listing.read_text())
        except (OSError, ValueError):
            found = {}
        if stamp is None or found.get("stamp") != json.loads(json.dumps(stamp)) or not self.data.exists():
            found = {"stamp": stamp, "pictures": self.write(pictures)}
            with atomic_write(listing) as temporary:
                temporary.write_text(json.dumps(found))
        self.names = [name for name, *_ in found["pictures"]]
        self.shapes = [(height, width, 3) for _, height, width in found["pictures"]]
        self.starts = np.cumsum([0] + [np.prod(shape) for shape in self.shapes])

    def write(self, pictures):
        listed = []
        # Several processes may do this at once.
        with atomic_write(self.data) as temporary, temporary.open("wb") as file:
            for name, picture in pictures:
                file.write(to_colour(picture).tobytes())
                listed.append([name, *picture.shape[:2]])
        return listed

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        return np.memmap(self.data, np.uint8, "r", int(self.starts[i]), self.shapes[i])


class NoisyCrops(Dataset):
    """position -> (noisy, clean), float32 (3, crop, crop): a crop turned and flipped, with noise of a random level."""

    def __init__(self, store, config, count=None):
        """count: how many pictures of the store to train on, its first ones (default: all)."""
        self.store, self.config, self.count = store, config, count or len(store)

    def __getitem__(self, position):
        c = self.config
        step, side = c.place(position)
        rng = np.random.default_rng([c.seed, position])
        share = (c.share_drawn, *c.restart_drawn)[c.part(step) if c.restart_drawn else 0]
        crop = drawing(rng, side) if share and rng.random() < share else self.photograph(rng, side)
        clean = np.ascontiguousarray(crop.transpose(2, 0, 1))
        if c.share_permuted and rng.random() < c.share_permuted:
            clean = np.ascontiguousarray(rng.permutation(clean))
        if c.share_saturation and rng.random() < c.share_saturation:
            grey = clean.mean(0)
            clean = (grey + np.float32(2 ** rng.uniform(-1, 1)) * (clean - grey)).clip(0, 1)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        if rng.random() < c.share_grey:
            clean[:] = clean.mean(0)
            noise[:] = noise[0]
        noisy = torch.from_numpy(clean + np.float32(rng.uniform(*c.sigma) / 255) * noise)
        if rng.random() < c.share_8bit:
            noisy = to_8bit_by_truncation(noisy)
        return noisy, torch.from_numpy(clean)

    def photograph(self, rng, side):
        """A random crop of a random picture in one of the eight symmetries of the square, each equally likely."""
        picture = self.store[rng.integers(self.count)]
        top, left = (rng.integers(length - side + 1) for length in picture.shape[:2])
        crop = np.rot90(picture[top : top + side, left : left + side], rng.integers(4))
        return (crop[:, ::-1] if rng.integers(2) else crop).astype(np.float32) / 255


def batches(samples, config, start=0, rank=0, world=1):
    """Loader of the batches from step `start` on; of `world` processes, each gets its part of every batch."""
    order = [config.positions(step)[rank::world] for step in range(start, config.steps)]
    gpu = torch.cuda.is_available()
    workers = config.workers if config.workers >= 0 else min(8, (os.cpu_count() or 1) // world) if gpu else 0
    return DataLoader(samples, batch_sampler=order, num_workers=workers, pin_memory=gpu, persistent_workers=workers > 0)
