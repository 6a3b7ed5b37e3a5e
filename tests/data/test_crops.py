"""Crops are functions of seed and position; the store of images is never half-written or replaced."""

import os
import pickle
from itertools import permutations

import numpy as np
import pytest
import torch

from glowlib.data.crops import NoisyCrops, PictureStore, batches
from glowlib.errors import KitError


@pytest.fixture
def pictures(photograph):
    return [("a.png", photograph), ("b.png", np.ascontiguousarray(photograph[:70, :90]))]


def test_store_gives_images_back(pictures, tmp_path):
    for source in (iter(pictures), iter(())):  # written, then found: nothing is decoded again
        store = PictureStore(source, tmp_path / "store", "these")
        assert len(store) == 2
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(pictures))


def test_store_follows_its_images(pictures, tmp_path):
    """Another stamp: the store is written again."""
    PictureStore(pictures, tmp_path / "store", "these")
    turned = [(name, picture[::-1]) for name, picture in pictures]
    for mark, other in (("turned", turned), ("fewer", pictures[1:])):
        store = PictureStore(other, tmp_path / "store", mark)
        assert len(store) == len(other)
        assert all(np.array_equal(store[i], picture) for i, (_, picture) in enumerate(other))


def test_a_store_with_a_truncated_listing_is_written_again(pictures, tmp_path):
    PictureStore(pictures, tmp_path / "store", "these")
    (listing,) = (tmp_path / "store").glob("*.json")
    os.truncate(listing, 5)
    store = PictureStore(pictures, tmp_path / "store", "these")
    assert np.array_equal(store[1], pictures[1][1])


def test_store_of_an_unreadable_image_is_not_left_half_written(pictures, tmp_path):
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


def test_a_store_is_sent_to_a_worker_without_its_pixels(pictures, tmp_path):
    store = PictureStore(pictures, tmp_path / "store")
    assert store[1].sum() > 0
    sent = pickle.dumps(store)
    assert len(sent) < store.data.stat().st_size / 10
    assert np.array_equal(pickle.loads(sent)[1], pictures[1][1])


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


def test_crops_are_the_eight_symmetries_of_the_image(tmp_path, recipe):
    """An image of the crop's own size has eight forms, each about as frequent."""
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


def test_a_share_of_the_crops_is_synthetic(tmp_path, recipe):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    drawn = sum(NoisyCrops(black, recipe(share_drawn=0.3))[i][1].max() > 0 for i in range(200))
    assert 40 < drawn < 80  # 60 expected, standard deviation 6.5; few synthetic crops are all black
    assert not any(NoisyCrops(black, recipe())[i][1].max() for i in range(50))


def test_another_share_is_synthetic_from_the_restart_on(tmp_path, recipe):
    black = PictureStore([("a.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    restart = {"warmup": 2, "restarts": (10, 50), "restart_lr": (1e-3, 1e-3)}
    given = recipe(batch_size=4, share_drawn=0.0, restart_drawn=(0.5, 0.0), **restart)
    drawn = [NoisyCrops(black, given)[i][1].max() > 0 for i in range(240)]
    assert not any(drawn[:40] + drawn[200:])  # four crops a step
    assert 55 < sum(drawn) < 95
    as_before = recipe(batch_size=4, share_drawn=0.3, **restart)
    plain = recipe(batch_size=4, share_drawn=0.3)
    assert all(torch.equal(*(NoisyCrops(black, c)[i][1] for c in (as_before, plain))) for i in range(60))


def test_held_out_images_are_not_trained_on(pictures, tmp_path, recipe):
    store = PictureStore([("a.png", pictures[0][1]), ("z.png", np.zeros((64, 64, 3), np.uint8))], tmp_path / "store")
    assert all(NoisyCrops(store, recipe(), count=1)[i][1].max() > 0 for i in range(50))
    assert any(NoisyCrops(store, recipe())[i][1].max() == 0 for i in range(50))


def test_a_running_training_keeps_its_images(pictures, tmp_path):
    """Another training with more images writes another store, and leaves the first as it is."""
    first = PictureStore(pictures, tmp_path / "store", "these")
    before = first[1].copy()
    more = [("0.png", 255 - pictures[0][1]), *pictures]
    second = PictureStore(more, tmp_path / "store", "more")
    assert np.array_equal(first[1], before)
    assert np.array_equal(second[0], more[0][1])
    assert len({first.sha256, second.sha256}) == 2


def test_the_hash_of_a_store_is_that_of_names_shapes_and_pixels(pictures, tmp_path):
    (a, image), (b, other) = pictures
    variants = [
        [(a, image), (b, other)],
        [(a, image), ("c.png", other)],
        [(a, image), (b, 255 - other)],
        [(a, image), (b, np.ascontiguousarray(other.reshape(90, 70, 3)))],
    ]
    hashes = [PictureStore(images, tmp_path / "store", i).sha256 for i, images in enumerate(variants)]
    assert len(set(hashes)) == len(variants)
    assert PictureStore(variants[0], tmp_path / "elsewhere", "another stamp").sha256 == hashes[0]
    assert PictureStore([], tmp_path / "store", 0).sha256 == hashes[0]  # read from the listing


def test_a_truncated_store_is_written_again(pictures, tmp_path):
    store = PictureStore(pictures, tmp_path / "store", "these")
    os.truncate(store.data, store.data.stat().st_size - 1)
    assert np.array_equal(PictureStore(pictures, tmp_path / "store", "these")[1], pictures[1][1])


def test_a_store_that_cannot_be_made_is_one_line(pictures, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KitError, match="cannot keep decoded images in"):
        PictureStore(pictures, tmp_path / "file" / "store", "these")


# Augmentation of colours, growing crops

PURE = np.zeros((24, 24, 3), np.uint8) + np.array([200, 100, 0], np.uint8)


def clean_crops(tmp_path, config, count):
    store = PictureStore([("a.png", PURE)], tmp_path / "store")
    crops = NoisyCrops(store, config)
    return [(crops[i][1].numpy() * 255) for i in range(count)]


def test_a_share_of_the_crops_has_its_channels_permuted(tmp_path, recipe):
    crops = clean_crops(tmp_path, recipe(share_grey=0.0, share_permuted=0.6), 300)
    orders = [tuple(np.rint(crop[:, 0, 0]).astype(int)) for crop in crops]
    counts = {order: orders.count(order) for order in set(orders)}
    assert set(counts) == set(permutations((200, 100, 0)))
    assert 100 < counts[200, 100, 0] < 200  # 0.4 + 0.6 / 6 of 300: 150 expected, standard deviation 8.7
    assert all(10 < counts[order] < 60 for order in counts if order != (200, 100, 0))  # 30 each
    assert all((crop == crop[:, :1, :1]).all() for crop in crops)  # the same order at every pixel
    assert {tuple(np.rint(c[:, 0, 0])) for c in clean_crops(tmp_path, recipe(share_grey=0.0), 50)} == {(200, 100, 0)}


def test_a_share_of_the_crops_has_another_saturation(tmp_path, recipe):
    """The mean of the channels stays where nothing is clipped; the differences from it are multiplied by 1/2 to 2."""
    changed = []
    for crop in clean_crops(tmp_path, recipe(share_grey=0.0, share_saturation=0.5), 300):
        red, green, blue = crop[:, 0, 0]
        assert green == pytest.approx(100, abs=0.01)
        factor = (red - 100) / 100
        assert 0.5 <= factor <= 1.551
        assert blue == pytest.approx(max(0, 100 - 100 * factor), abs=0.01)
        if factor != pytest.approx(1, abs=1e-4):
            changed.append(factor)
    assert 110 < len(changed) < 190  # 150 expected, standard deviation 8.7
    assert min(changed) < 0.6
    assert max(changed) == pytest.approx(1.55, abs=1e-3)  # clipped to 255


def test_augmented_crops_depend_on_seed_and_position_alone(pictures, tmp_path, recipe):
    store = PictureStore(pictures, tmp_path / "store")
    config = recipe(share_permuted=0.5, share_saturation=0.5, share_drawn=0.3)
    backwards = [NoisyCrops(store, config)[i] for i in reversed(range(12))][::-1]
    for i, pair in enumerate(backwards):
        assert all(torch.equal(a, b) for a, b in zip(pair, NoisyCrops(store, config)[i], strict=True))
        assert 0 <= pair[1].min() <= pair[1].max() <= 1


def test_crops_grow_and_batches_shrink(pictures, tmp_path, recipe):
    config = recipe(crop=16, batch_size=8, steps=7, grow_at=(3, 5), grow_to=(32, 48))
    crops = NoisyCrops(PictureStore(pictures, tmp_path / "store"), config)
    whole = list(batches(crops, config))
    assert [tuple(x.shape) for x, _ in whole] == [(8, 3, 16, 16)] * 3 + [(2, 3, 32, 32)] * 2 + [(1, 3, 48, 48)] * 2
    for start in range(7):
        late = list(batches(crops, config, start=start))
        assert all(
            torch.equal(a, b) for x, y in zip(late, whole[start:], strict=True) for a, b in zip(x, y, strict=True)
        )
    loader = batches(crops, config, start=2)
    assert len(loader) == 5
    assert len(list(loader)) == len(list(loader)) == 5  # can be read again


def test_workers_prepare_the_same_batches(pictures, tmp_path, recipe):
    crops = NoisyCrops(PictureStore(pictures, tmp_path / "store"), recipe())
    alone, helped = (list(batches(crops, recipe(workers=workers), start=1)) for workers in (0, 2))
    assert all(torch.equal(a, b) for x, y in zip(alone, helped, strict=True) for a, b in zip(x, y, strict=True))
