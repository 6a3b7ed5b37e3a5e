"""Synthetic images: flat areas, gradients, checkerboards, stripes and lines of text.

A network that is trained on photographs alone blurs text and graphics, so a share of its crops may be synthetic. Each
kind is a function of (rng, rows, columns) that returns the share of the second of two colours at each pixel, in [0, 1].
"""

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = np.array(list(string.ascii_letters + string.digits + string.punctuation + " " * 12))


def two_colours(rng: np.random.Generator) -> np.ndarray:
    """Two colours, (2, 3) in [0, 1]: in half of the images black and white, in either order."""
    if rng.integers(2):
        return np.repeat(rng.permutation([0.0, 1.0])[:, None], 3, 1)
    return rng.random((2, 3))


def checkerboard(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Squares of 1 to 16 pixels."""
    cell = rng.integers(1, 17)
    return ((rows + rng.integers(cell)) // cell + (columns + rng.integers(cell)) // cell) % 2


def stripes(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Straight stripes of 2 to 32 pixels in any direction, with sharp edges."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 64)
    return (np.sin(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period) > 0).astype(float)


def gradient(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A linear gradient in any direction; in a quarter of the images a flat area."""
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    along = (along - along.min()) / np.ptp(along)
    return along * (0.0 if rng.integers(4) == 0 else rng.uniform(0.1, 1))


def text(rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Lines of random characters, 8 to 24 pixels tall."""
    side, height = len(rows), int(rng.integers(8, 25))
    page = Image.new("L", (side, side))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(height)
    left = int(rng.integers(-height, height))
    for top in range(int(rng.integers(-height, 1)), side, int(height * rng.uniform(1.1, 1.6))):
        draw.text((left, top), "".join(rng.choice(LETTERS, 4 * side // height)), fill=255, font=font)
    return np.asarray(page) / 255


def synthetic_image(rng: np.random.Generator, side: int) -> np.ndarray:
    """A synthetic image of one of the four kinds, each equally likely.

    Args:
        rng: the source of all its random numbers.
        side: height and width, pixels.
    Returns:
        float32 (side, side, 3) in [0, 1].
    """
    kind = (checkerboard, stripes, gradient, text)[rng.integers(4)]
    share = kind(rng, *np.ogrid[:side, :side])[..., None]
    first, second = two_colours(rng)
    return (first * (1 - share) + second * share).astype(np.float32)
