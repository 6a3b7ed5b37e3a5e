"""Pictures that no camera takes: flat areas, ramps, boards, bars and lines of text, at full contrast or less.

A network that only ever saw photographs blurs what is drawn, so that a share of its crops may be drawn, too.
"""

import string

import numpy as np
from PIL import Image, ImageDraw, ImageFont

LETTERS = np.array(list(string.ascii_letters + string.digits + string.punctuation + " " * 12))


def two_colours(rng):
    """Two colours, (2, 3) in [0, 1]: black and white in every second drawing, in either order."""
    if rng.integers(2):
        return np.repeat(rng.permutation([0.0, 1.0])[:, None], 3, 1)
    return rng.random((2, 3))


def board(rng, rows, columns):
    """Squares of 1 to 16 pixels in turn."""
    cell = rng.integers(1, 17)
    return ((rows + rng.integers(cell)) // cell + (columns + rng.integers(cell)) // cell) % 2


def bars(rng, rows, columns):
    """Straight bars of 2 to 32 pixels in any direction, with sharp edges."""
    angle, period = rng.uniform(0, np.pi), rng.uniform(4, 64)
    return (np.sin(2 * np.pi * (rows * np.sin(angle) + columns * np.cos(angle)) / period) > 0).astype(float)


def ramp(rng, rows, columns):
    """A linear gradient in any direction; flat in every fourth drawing."""
    angle = rng.uniform(0, 2 * np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    along = (along - along.min()) / np.ptp(along)
    return along * (0.0 if rng.integers(4) == 0 else rng.uniform(0.1, 1))


def text(rng, rows, columns):
    """Lines of random characters, 8 to 24 pixels tall."""
    side, height = len(rows), int(rng.integers(8, 25))
    page = Image.new("L", (side, side))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(height)
    left = int(rng.integers(-height, height))
    for top in range(int(rng.integers(-height, 1)), side, int(height * rng.uniform(1.1, 1.6))):
        draw.text((left, top), "".join(rng.choice(LETTERS, 4 * side // height)), fill=255, font=font)
    return np.asarray(page) / 255


def drawing(rng, side):
    """One of the four kinds, each equally likely, in two colours: float32 (side, side, 3) in [0, 1]."""
    kind = (board, bars, ramp, text)[rng.integers(4)]
    share = kind(rng, *np.ogrid[:side, :side])[..., None]
    first, second = two_colours(rng)
    return (first * (1 - share) + second * share).astype(np.float32)
