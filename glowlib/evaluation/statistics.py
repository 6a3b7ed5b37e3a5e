"""Intervals: the bootstrap over pictures, and Student's over seeds."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import bootstrap
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
