"""Whole picture or tiles: what is compared with what."""

import numpy as np
import pandas as pd

from glowlib.experiments.context_range import differences


def test_each_network_is_compared_with_its_own_automatic_tiles():
    psnr = {"net": (30, 32), "net@64": (29, 30), "net@whole": (30.5, 32.5), "other": (20, 20)}
    psnr |= {"other@64": (20, 20), "other@whole": (19, 21)}
    rows = [
        ("set", name, 50, "float", 0, m, v) for m, values in psnr.items() for name, v in zip("ab", values, strict=True)
    ]
    found = differences(
        pd.DataFrame(rows, columns=["dataset", "image", "sigma", "protocol", "seed", "method", "psnr"])
    ).set_index(["model", "tile"])
    expected = {("net", "64"): (-1.5, -2, -1), ("net", "whole"): (0.5, 0.5, 0.5)}
    expected |= {("other", "64"): (0, 0, 0), ("other", "whole"): (0, -1, 1)}
    for key, values in expected.items():
        np.testing.assert_allclose(found.loc[key, ["difference", "low", "high"]].astype(float), values)
    assert (found["images"] == 2).all()
