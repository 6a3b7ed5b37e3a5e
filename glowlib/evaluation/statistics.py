"""Intervals and tests: the bootstrap over images, Student's t over seeds, Holm's correction, a three-way answer."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, ttest_1samp
from scipy.stats import t as student

EQUIVALENT = 0.1  # dB; a difference inside ± this is called none


def paired_differences(
    table: pd.DataFrame, methods: Sequence[str], score: str = "psnr", resamples: int = 10_000
) -> pd.DataFrame:
    """Mean difference of each pair of methods over the images, with a bootstrap 95% interval (percentile).

    Both methods restored the same images with the same noise, so that an image's own difficulty cancels.

    Args:
        table: rows of `run_benchmark`; at least two images of each dataset.
        methods: the methods to compare, each with each.
        score: column to compare.
        resamples: number of bootstrap resamples.

    Returns:
        A row for each (dataset, protocol, σ, pair): methods "a" and "b", mean "difference" a - b, its interval's ends
        "low" and "high", and the number of "images"; seeds of the noise are averaged first.
    """
    rows = []
    groups = table[table["method"].isin(methods)].groupby(["dataset", "protocol", "sigma"], sort=False)
    for key, part in groups:
        wide = part.pivot_table(score, "image", "method")
        for a, b in combinations(methods, 2):
            difference = (wide[a] - wide[b]).dropna().to_numpy()
            settings = {"n_resamples": resamples, "method": "percentile", "rng": np.random.default_rng(0)}
            low, high = bootstrap((difference,), np.mean, **settings).confidence_interval
            rows.append((*key, a, b, difference.mean(), low, high, len(difference)))
    columns = ["dataset", "protocol", "sigma", "a", "b", "difference", "low", "high", "images"]
    return pd.DataFrame(rows, columns=columns)


def differences_over_seeds(runs: pd.DataFrame, scores: Sequence[str]) -> pd.DataFrame:
    """Each model's mean over seeds minus the first model's, with a 95% interval, for each of the scores.

    The interval is Student's, from the spread over seeds, pooled over the models: it covers chance in training, on
    the same images.

    Args:
        runs: columns "model", "seed" and the scores; every model has the same seeds.
        scores: columns to compare.

    Returns:
        Columns model, score, difference, low, high.
    """
    first, *others = runs["model"].unique()
    seeds = runs["seed"].nunique()
    freedom = runs["model"].nunique() * (seeds - 1)
    rows = []
    for score in scores:
        by_model = runs.groupby("model", sort=False)[score]
        spread = np.sqrt(((runs[score] - by_model.transform("mean")) ** 2).sum() / freedom)
        half = student.ppf(0.975, freedom) * spread * np.sqrt(2 / seeds)
        means = by_model.mean()
        for model in others:
            difference = means[model] - means[first]
            rows.append((model, score, difference, difference - half, difference + half))
    return pd.DataFrame(rows, columns=["model", "score", "difference", "low", "high"])


class Difference(NamedTuple):
    """A mean difference, its interval's ends, and the p-value of "no difference"."""

    mean: float
    low: float
    high: float
    p: float


def seed_paired_difference(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of a - b over seeds, with Student's interval: mean ± t·s/√n for n seeds.

    Args:
        a: one mean over the set for each seed, in dB.
        b: the same for the other model, with the same seeds in the same order.
        confidence: of the interval.

    Returns:
        A `Difference`. Low and high are NaN for a single seed.

    Raises:
        ValueError: a and b differ in length.
    """
    if len(a) != len(b):
        raise ValueError(f"a and b need the same seeds: {len(a)} and {len(b)} values")
    differences = np.subtract(a, b, dtype=float)
    test = ttest_1samp(differences, 0)
    low, high = test.confidence_interval(confidence)
    return Difference(float(differences.mean()), float(low), float(high), float(test.pvalue))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjusted p-values of a family of tests (Holm 1979, step-down): reject where the result is at most α."""
    p = np.asarray(p_values, float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order]).clip(max=1)
    return adjusted


def answer(low: float, high: float, margin: float = EQUIVALENT) -> str:
    """What a 95% interval of a - b says to the question "is a better than b?".

    Args:
        low: lower end, in dB.
        high: upper end, in dB.
        margin: a difference inside ± margin counts as none (two one-sided tests, Schuirmann 1987).

    Returns:
        "no": the whole interval lies inside ± margin. "yes": it lies above 0. "worse": it lies below 0.
        "not shown": none of these, or an end is not a number.
    """
    if -margin < low and high < margin:
        return "no"
    return "yes" if low > 0 else "worse" if high < 0 else "not shown"
