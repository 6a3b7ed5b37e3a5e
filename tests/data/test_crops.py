"""Crops are functions of seed and position; the store of pictures is never half-written."""

import os

import numpy as np
import pytest
import torch

from glowlib.data.crops import NoisyCrops, PictureStore, batches
from glowlib.errors import KitError


@pytest.fixture
def pictures(photograph):
    return [("a.png", photograph), ("b.png", np.ascontiguousarray(photograph[:70, :90]))]


def test_store_gives_pictures_back(pictures, tmp_path):
    for source in (iter(pictures), iter(())):  # written, then found: nothing is decoded again
        store = PictureStore(source, tmp_path / "store", "these")
        assert len(store) == 2
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(pictures))


def test_store_follows_its_pictures(pictures, tmp_path):
    """Another stamp: the store is written again."""
    PictureStore(pictures, tmp_path / "store", "these")
    turned = [(name, picture[::-1]) for name, picture in pictures]
    for mark, other in (("turned", turned), ("fewer", pictures[1:])):
        store = PictureStore(other, tmp_path / "store", mark)
        assert len(store) == len(other)
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(other))


def test_torn_store_is_written_again(pictures, tmp_path):
    PictureStore(pictures, tmp_path / "store", "these")
    os.truncate(tmp_path / "store" / "pictures.json", 5)
    store = PictureStore(pictures, tmp_path / "store", "these")
    assert np.array_equal(store[1], pictures[1][1])


def test_store_of_an_unreadable_picture_is_not_left_half_written(pictures, tmp_path):
    def broken():
        yield pictures[0]
        raise KitError("b.png is no picture")

    with pytest.raises(KitError, match="b.png"):
        PictureStore(broken(), tmp_path / "store", "these")
    assert list((tmp_path / "store").iterdir()) == []


def test_store_repeats_grey(tmp_path):
    grey = np.arange(20, dtype=np.uint8).reshape(4, 5)
    store = PictureStore([("g.png", grey)], tmp_path / "store")
    assert np.array_equal(store[0], np.stack([grey] * 3, 2))


def test_samples_depend_on_seed_and_position_alone(pictures, tmp_path, recipe):
    store = PictureStore(pictures, tmp_path / "store")
    crops = NoisyCrops(store, recipe())
    later = [crops[i] for i in (9, 3)]
    again = [NoisyCrops(store, recipe(steps=99, batch_size=1))[i] for i in (9, 3)]
    assert all(torch.equal(a, b) for x, y in zip(later, again, strict=True) for a, b in zip(x, y, strict=True))
    other = NoisyCrops(store, recipe(seed=1))[9]
    assert not torch.equal(later[0][1], other[1])


def test_batches_can_start_anywhere_and_be_shared(pictures, tmp_path, recipe):
    store = NoisyCrops(PictureStore(pictures, tmp_path / "store"), recipe())
    whole = [noisy for noisy, _ in batches(store, recipe())]
    assert len(whole) == 5
    late = [noisy for noisy, _ in batches(store, recipe(), start=3)]
    assert all(torch.equal(a, b) for a, b in zip(late, whole[3:], strict=True))
    parts = [[noisy for noisy, _ in batches(store, recipe(), rank=rank, world=2)] for rank in (0, 1)]
    for batch, even, odd in zip(whole, *parts, strict=True):
        assert torch.equal(batch[0::2], even)
        assert torch.equal(batch[1::2], odd)


def test_crops_are_the_eight_symmetries_of_the_picture(tmp_path, recipe):
    """A picture of the crop's own size has eight forms, each about as frequent."""
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    store = PictureStore([("a.png", picture)], tmp_path / "store")
    forms = [np.rot90(p, k).tobytes() for p in (picture, picture[:, ::-1]) for k in range(4)]
    crops = NoisyCrops(store, recipe(share_grey=0.0))
    counts = dict.fromkeys(forms, 0)
    for i in range(400):
        counts[(crops[i][1].numpy() * 255).round().astype(np.uint8).transpose(1, 2, 0).tobytes()] += 1
    assert min(counts.values()) > 25  # 50 expected, standard deviation 6.6


@pytest.mark.parametrize("sigma", [(25, 25), (5, 50)])
def test_noise_level_of_crops(sigma, pictures, tmp_path, recipe):
    store = PictureStore(pictures, tmp_path / "store")
    crops = NoisyCrops(store, recipe(sigma=sigma, share_8bit=0.0, share_grey=0.0))
    levels = [((noisy - clean).std() * 255).item() for noisy, clean in map(crops.__getitem__, range(200))]
    assert np.mean(levels) == pytest.approx(np.mean(sigma), abs=4 * max(np.ptp(sigma) / 12**0.5, 1) / 200**0.5)
    assert min(levels) > sigma[0] * 0.85
    assert max(levels) < sigma[1] * 1.15
    assert (np.ptp(levels) > 30) == (sigma[0] != sigma[1])


def test_grey_and_8bit_crops(pictures, tmp_path, recipe):
    store = PictureStore(pictures, tmp_path / "store")
    for noisy, clean in map(NoisyCrops(store, recipe(share_grey=1.0)).__getitem__, range(8)):
        assert torch.equal(clean, clean[:1].expand(3, -1, -1))
        torch.testing.assert_close(noisy, noisy[:1].expand(3, -1, -1))
    for noisy, _ in map(NoisyCrops(store, recipe(share_8bit=1.0)).__getitem__, range(8)):
        assert 0 <= noisy.min() <= noisy.max() <= 1
        torch.testing.assert_close(noisy * 255, (noisy * 255).round(), rtol=0, atol=1e-4)


def test_a_share_of_the_crops_is_drawn(tmp_path, recipe):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    drawn = sum(NoisyCrops(black, recipe(share_drawn=0.3))[i][1].max() > 0 for i in range(200))
    assert 40 < drawn < 80  # 60 expected, standard deviation 6.5; the share that is drawn all black is small
    assert not any(NoisyCrops(black, recipe())[i][1].max() for i in range(50))


def test_another_share_is_drawn_from_the_restart_on(tmp_path, recipe):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    restart = {"warmup": 2, "restarts": (10, 50), "restart_lr": (1e-3, 1e-3)}
    given = recipe(batch_size=4, share_drawn=0.0, restart_drawn=(0.5, 0.0), **restart)
    drawn = [NoisyCrops(black, given)[i][1].max() > 0 for i in range(240)]
    assert not any(drawn[:40] + drawn[200:])  # steps of four
    assert 55 < sum(drawn) < 95
    as_before = recipe(batch_size=4, share_drawn=0.3, **restart)
    plain = recipe(batch_size=4, share_drawn=0.3)
    assert all(torch.equal(*(NoisyCrops(black, c)[i][1] for c in (as_before, plain))) for i in range(60))


def test_held_out_pictures_are_not_trained_on(pictures, tmp_path, recipe):
    store = PictureStore([("a.png", pictures[0][1]), ("z.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    assert all(NoisyCrops(store, recipe(), count=1)[i][1].max() > 0 for i in range(50))
    assert any(NoisyCrops(store, recipe())[i][1].max() == 0 for i in range(50))
