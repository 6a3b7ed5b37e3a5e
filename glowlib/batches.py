"""Training pairs: crops of photographs with fresh noise, each a function of (seed, position) alone.

Since a sample depends on nothing else, any process, on any machine, at any time makes the same one: a
resumed run sees what the uninterrupted one would have seen.
"""

import json
import zlib

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .noise import to_8bit_by_truncation


class PictureStore:
    """Pictures decoded once into one memory-mapped file, so that opening a crop costs nothing."""

    def __init__(self, pictures, folder):
        """pictures: [(name, uint8 array H×W×3)]; folder: where the store lies, or will lie."""
        folder.mkdir(parents=True, exist_ok=True)
        index = [[name, *p.shape[:2], zlib.crc32(np.ascontiguousarray(p))] for name, p in pictures]
        self.data, listing = folder / "pictures.bin", folder / "pictures.json"
        text = json.dumps(index)
        # The listing is written last: a store whose listing is another, or torn, is made anew.
        if not (self.data.exists() and listing.exists() and listing.read_text() == text):
            beside = self.data.with_suffix(".part")
            with beside.open("wb") as file:
                for _, picture in pictures:
                    file.write(np.ascontiguousarray(picture).tobytes())
            beside.replace(self.data)
            listing.write_text(text)
        self.shapes = [(h, w, 3) for _, h, w, _ in index]
        self.starts = np.cumsum([0] + [h * w * 3 for h, w, _ in self.shapes])

    def __len__(self):
        return len(self.shapes)

    def __getitem__(self, i):
        return np.memmap(self.data, np.uint8, "r", int(self.starts[i]), self.shapes[i])


class NoisyCrops(Dataset):
    """position -> (noisy, clean), float32 (3, crop, crop): a crop turned and flipped, with noise of a random level."""

    def __init__(self, store, config):
        self.store, self.config = store, config

    def __getitem__(self, position):
        c = self.config
        rng = np.random.default_rng([c.seed, position])
        picture = self.store[rng.integers(len(self.store))]
        top, left = (rng.integers(side - c.crop + 1) for side in picture.shape[:2])
        crop = picture[top : top + c.crop, left : left + c.crop]
        # The eight symmetries of the square, each equally likely.
        crop = np.rot90(crop, rng.integers(4))
        crop = crop[:, ::-1] if rng.integers(2) else crop
        clean = np.ascontiguousarray(crop.transpose(2, 0, 1), dtype=np.float32) / 255
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        if rng.random() < c.share_grey:
            clean[:] = clean.mean(0)
            noise[:] = noise[0]
        noisy = torch.from_numpy(clean + np.float32(rng.uniform(*c.sigma) / 255) * noise)
        if rng.random() < c.share_8bit:
            noisy = to_8bit_by_truncation(noisy)
        return noisy, torch.from_numpy(clean)


def batches(store, config, start=0, rank=0, world=1):
    """Loader of the batches from step `start` on; of `world` processes, each gets its part of every batch."""
    order = range(start * config.batch_size + rank, config.steps * config.batch_size, world)
    return DataLoader(
        NoisyCrops(store, config),
        batch_size=config.batch_size // world,
        sampler=order,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=config.workers > 0,
    )
