"""Intervals, against those that can be made by hand."""

import warnings

import numpy as np
import pandas as pd
import pytest

from glowlib.evaluation.benchmark import KEYS
from glowlib.evaluation.statistics import answer, holm, paired_differences, seed_paired_difference


def test_paired_differences_and_their_intervals():
    rng = np.random.default_rng(0)
    base, gain = rng.normal(28, 3, 40), rng.normal(1, 0.2, 40)
    rows = [("a", "set", f"{i}", 50, "float", 0, b + g) for i, (b, g) in enumerate(zip(base, gain, strict=True))]
    rows += [("b", "set", f"{i}", 50, "float", 0, b) for i, b in enumerate(base)]
    row = paired_differences(pd.DataFrame(rows, columns=[*KEYS, "psnr"]), ["a", "b"]).iloc[0]
    assert row["images"] == 40
    assert row["difference"] == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / np.sqrt(40)  # the normal interval, which the bootstrap comes close to
    np.testing.assert_allclose([row["low"], row["high"]], [gain.mean() - half, gain.mean() + half], atol=0.2 * half)


def test_seed_paired_difference_is_students():
    a, b = [28.1, 28.3, 28.2], [28.0, 28.05, 28.15]
    found = seed_paired_difference(a, b)
    d = np.subtract(a, b)
    half = 4.302653 * d.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom at 97.5%
    np.testing.assert_allclose(found[:3], [d.mean(), d.mean() - half, d.mean() + half], rtol=1e-5)
    assert (found.p < 0.05) == (found.low > 0)
    shifted = np.add([1, 5, -3], a), np.add([1, 5, -3], b)  # what both share with a seed cancels
    np.testing.assert_allclose(seed_paired_difference(*shifted), found)


def test_one_seed_shows_nothing():
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = seed_paired_difference([28.1], [28.0])
    assert found.mean == pytest.approx(0.1)
    assert answer(found.low, found.high) == "not shown"


def test_seeds_must_match():
    with pytest.raises(ValueError, match="3 and 2"):
        seed_paired_difference([1, 2, 3], [1, 2])


def test_holm_by_hand():
    # sorted: 0.01·4, 0.02·3, 0.03·2 (raised to 0.06), 0.4·1
    np.testing.assert_allclose(holm([0.02, 0.4, 0.01, 0.03]), [0.06, 0.4, 0.04, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.2, 0.3, "yes"),
        (0.05, 0.3, "yes"),
        (-0.3, -0.2, "worse"),
        (-0.05, 0.09, "no"),
        (0.02, 0.05, "no"),
        (-0.05, 0.2, "not shown"),
        (-0.1, 0.1, "not shown"),
        (float("nan"), float("nan"), "not shown"),
    ],
)
def test_no_needs_an_interval_inside_the_margin(low, high, said):
    assert answer(low, high) == said
