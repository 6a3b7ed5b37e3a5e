"""Intervals, against those that can be made by hand."""

import numpy as np
import pandas as pd
import pytest

from glowlib.evaluation.benchmark import KEYS
from glowlib.evaluation.statistics import paired_differences


def test_paired_differences_and_their_intervals():
    rng = np.random.default_rng(0)
    base, gain = rng.normal(28, 3, 40), rng.normal(1, 0.2, 40)
    rows = [("a", "set", f"{i}", 50, "float", 0, b + g) for i, (b, g) in enumerate(zip(base, gain, strict=True))]
    rows += [("b", "set", f"{i}", 50, "float", 0, b) for i, b in enumerate(base)]
    row = paired_differences(pd.DataFrame(rows, columns=[*KEYS, "psnr"]), ["a", "b"]).iloc[0]
    assert row["pictures"] == 40
    assert row["difference"] == pytest.approx(gain.mean())
    half = 1.96 * gain.std() / np.sqrt(40)  # the normal interval, which the bootstrap comes close to
    np.testing.assert_allclose([row["low"], row["high"]], [gain.mean() - half, gain.mean() + half], atol=0.2 * half)
