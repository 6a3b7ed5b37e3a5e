"""Training pairs: crops of photographs with fresh noise, each a function of (seed, position) alone.

Since a sample depends on nothing else, any process on any machine makes the same one at any time: a resumed training
sees the samples that an uninterrupted one would have seen.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import KitError
from ..files import atomic_write, sha256
from .augmentation import augment_colours, random_symmetry
from .image_files import to_colour
from .noise import to_8bit_by_truncation
from .synthetic import synthetic_image


class PictureStore:
    """Images decoded once into one memory-mapped file, so that reading a crop costs little.

    The file's name is the hash of the stamp: when a set changes, another file is written, and a training that is
    running keeps the one it has. Files that no training uses any more can be removed by hand.

    Attributes:
        names: of the images.
        shapes: (height, width, 3) of each.
        sha256: of the names, shapes and pixels.
    """

    def __init__(self, images: Iterable[tuple[str, np.ndarray]], folder: Path, stamp: Any = None):
        """
        Args:
            images: (name, uint8 array H×W×3 or H×W); read only if they are not in the store.
            folder: where the store's files lie, or will lie.
            stamp: what identifies the images, as JSON; without one they are always written again.
        Raises:
            KitError: if the store cannot be written; and what `images` raises.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KitError(f"cannot keep decoded images in {folder}: {error.strerror or error}") from error
        key = "unnamed" if stamp is None else sha256(json.dumps(stamp).encode())[:16]
        self.data, listing = folder / f"{key}.bin", folder / f"{key}.json"
        found = None if stamp is None else self.read(listing)
        if found is None:
            found = self.write(images)
            with atomic_write(listing) as temporary:
                temporary.write_text(json.dumps(found))
        self.sha256 = found["sha256"]
        self.names = [name for name, _, _ in found["images"]]
        self.shapes = [(height, width, 3) for _, height, width in found["images"]]
        self.starts = np.cumsum([0] + [np.prod(shape) for shape in self.shapes])

    def read(self, listing: Path) -> dict | None:
        """The listing of a complete store, else None. The listing is written last."""
        try:
            found = json.loads(listing.read_text())
            size = sum(3 * height * width for _, height, width in found["images"])
            return found if "sha256" in found and self.data.stat().st_size == size else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, images: Iterable[tuple[str, np.ndarray]]) -> dict:
        """Write the pixels; return their listing. Several processes may do this at once."""
        listed, digest = [], hashlib.sha256()
        with atomic_write(self.data) as temporary, temporary.open("wb") as file:
            for name, image in images:
                listed.append([name, *image.shape[:2]])
                pixels = to_colour(image).tobytes()
                file.write(pixels)
                digest.update(json.dumps(listed[-1]).encode())
                digest.update(pixels)
        return {"sha256": digest.hexdigest(), "images": listed}

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, i: int) -> np.ndarray:
        """An image, uint8 H×W×3, read when it is used."""
        return self.pixels[self.starts[i] : self.starts[i + 1]].reshape(self.shapes[i])

    @cached_property
    def pixels(self) -> np.ndarray:
        """The whole file. Each process opens it once: to open it for every crop takes a fifth of a crop's time."""
        return np.asarray(np.memmap(self.data, np.uint8, "r"))

    def __getstate__(self) -> dict:
        """What a worker process gets: not the pixels, which would be copied."""
        return {name: value for name, value in self.__dict__.items() if name != "pixels"}


class NoisyCrops(Dataset):
    """Position -> (noisy, clean), float32 (3, crop, crop): an augmented crop, and the same with noise.

    The clean crop is in [0, 1]. It is a photograph's, or synthetic (`share_drawn`). See `TrainingConfig` for positions
    and shares.
    """

    def __init__(self, store: PictureStore, config: Any, count: int | None = None):
        """
        Args:
            store: the images.
            config: a `TrainingConfig`.
            count: number of images to train on, the first ones of the store (default: all).
        """
        self.store, self.config, self.count = store, config, count or len(store)

    def __getitem__(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        c = self.config
        step, side = c.locate(position)
        rng = np.random.default_rng([c.seed, position])
        share_drawn = (c.share_drawn, *c.restart_drawn)[c.restarts_before(step) if c.restart_drawn else 0]
        synthetic = share_drawn and rng.random() < share_drawn
        crop = synthetic_image(rng, side) if synthetic else self.random_crop(rng, side)
        clean = np.ascontiguousarray(crop.transpose(2, 0, 1))
        clean = augment_colours(clean, rng, c.share_permuted, c.share_saturation)
        noise = rng.standard_normal(clean.shape, dtype=np.float32)
        if rng.random() < c.share_grey:
            clean[:] = clean.mean(0)
            noise[:] = noise[0]
        noisy = torch.from_numpy(clean + np.float32(rng.uniform(*c.sigma) / 255) * noise)
        if rng.random() < c.share_8bit:
            noisy = to_8bit_by_truncation(noisy)
        return noisy, torch.from_numpy(clean)

    def random_crop(self, rng: np.random.Generator, side: int) -> np.ndarray:
        """A random crop of a random image in one of the eight symmetries of the square, each equally likely."""
        image = self.store[rng.integers(self.count)]
        top, left = (rng.integers(length - side + 1) for length in image.shape[:2])
        crop = random_symmetry(image[top : top + side, left : left + side], rng)
        return crop.astype(np.float32) / 255


class BatchOrder(Sampler):
    """The positions of each batch's crops, from step `start` on: this process's share, of `world` processes."""

    def __init__(self, config: Any, start: int, rank: int, world: int):
        self.config, self.start, self.rank, self.world = config, start, rank, world

    def __len__(self) -> int:
        return self.config.steps - self.start

    def __iter__(self) -> Iterator[range]:
        for step in range(self.start, self.config.steps):
            yield self.config.batch_positions(step)[self.rank :: self.world]


def batches(samples: Dataset, config: Any, start: int = 0, rank: int = 0, world: int = 1) -> DataLoader:
    """Load the batches of a training in order.

    Args:
        samples: position -> (noisy, clean).
        config: a `TrainingConfig`.
        start: the step to begin with.
        rank: number of this process, of `world` processes; each gets its share of every batch.
    Returns:
        An iterable of (noisy, clean), float32 (batch, 3, crop, crop).
    """
    order = BatchOrder(config, start, rank, world)
    gpu = torch.cuda.is_available()
    workers = config.workers if config.workers >= 0 else min(8, (os.cpu_count() or 1) // world) if gpu else 0
    return DataLoader(samples, batch_sampler=order, num_workers=workers, pin_memory=gpu, persistent_workers=workers > 0)
