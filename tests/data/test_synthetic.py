"""Synthetic images: what they contain, and that they depend on their generator alone."""

import numpy as np
import pytest

from glowlib.data.synthetic import checkerboard, gradient, stripes, synthetic_image, text

SIDE = 64
GRID = np.ogrid[:SIDE, :SIDE]


def rng(*seed):
    return np.random.default_rng(seed)


def test_synthetic_images_are_images_and_differ():
    drawn = [synthetic_image(rng(i), SIDE) for i in range(60)]
    for image in drawn:
        assert image.shape == (SIDE, SIDE, 3)
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
    assert len({image.tobytes() for image in drawn}) > 50
    assert np.array_equal(synthetic_image(rng(7), SIDE), drawn[7])
    full = [p for p in drawn if (p.min(), p.max()) == (0, 1)]
    assert len(full) > 10  # black beside white


@pytest.mark.parametrize("kind", [checkerboard, stripes])
def test_sharp_edges(kind):
    for seed in range(20):
        share = np.broadcast_to(kind(rng(seed), *GRID), (SIDE, SIDE))
        assert set(np.unique(share)) <= {0, 1}


def test_a_checkerboard_alternates():
    share = checkerboard(rng(3), *GRID)
    rows, columns = share[:, :1] ^ share[:1, :1], share[:1] ^ share[:1, :1]
    assert np.array_equal(share, rows ^ columns ^ share[:1, :1])
    assert 0.3 < share.mean() < 0.7


def test_a_gradient_is_linear():
    for seed in range(20):
        share = gradient(rng(seed), *GRID)
        assert abs(np.diff(share, 2, axis=0)).max() < 1e-12
        assert abs(np.diff(share, 2, axis=1)).max() < 1e-12


def test_text_has_ink_on_paper():
    inks = [text(rng(seed), *GRID).mean() for seed in range(20)]
    assert 0.05 < np.mean(inks) < 0.5
