"""Intervals: the bootstrap over pictures, and Student's over seeds."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, ttest_1samp
from scipy.stats import t as student


def paired_differences(table, methods, score="psnr", resamples=10_000):
    """Mean difference of each pair of methods over the pictures, with a bootstrap 95% interval (percentile).

    The same pictures, at least two, with the same noise were restored by both, so that their own difficulty cancels.
    Returns a row for each (dataset, protocol, σ, pair): methods "a" and "b", mean of a - b, its interval's
    ends "low" and "high", and the number of pictures; seeds are averaged first.
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
    columns = ["dataset", "protocol", "sigma", "a", "b", "difference", "low", "high", "pictures"]
    return pd.DataFrame(rows, columns=columns)


def differences_over_seeds(runs, scores):
    """Each model's mean over seeds less the first model's, with a 95% interval, for each of the scores.

    The interval is Student's, from the spread over seeds, pooled over the models: it holds what chance in training
    does, on the same pictures. Every model has the same seeds. Returns columns model, score, difference, low, high.
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


def seed_interval(differences, level=0.95):
    """Student's interval of a mean difference between two networks, paired by seed.

    Args:
        differences: one difference of set means for each seed, dB, at least two.
    Returns:
        (mean, low, high, p): mean ± t·s/√n, and p of the two-sided t-test of a mean of zero.
    """
    found = ttest_1samp(differences, 0)
    low, high = found.confidence_interval(level)
    return float(np.mean(differences)), float(low), float(high), float(found.pvalue)


def holm(p):
    """Holm's correction of a family of p-values (Scandinavian Journal of Statistics 1979), in the order given."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    result = np.empty_like(p)
    result[order] = corrected.clip(max=1)
    return result


def verdict(low, high, bound):
    """Verdict on an interval: "no" inside ±bound, else "yes" above zero, "worse" below zero, "not shown" around it."""
    if -bound < low and high < bound:
        return "no"
    return "yes" if low > 0 else "worse" if high < 0 else "not shown"
