"""Figures show what they say: the right crop, the right numbers, real text."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from skimage import data

from glowlib import add_noise, psnr
from glowlib.experiments.figures import (
    LOOKS,
    STYLE,
    busiest_crop,
    clipping_bias,
    differing_crop,
    enlarged,
    expected_bias,
    forest,
    quality_against_cost,
    save,
    scatter_of_pair,
    style,
    teaser,
    visual_comparison,
)

CLEAN = data.astronaut()[:120, :160]
NOISY = add_noise(CLEAN, 50, seed=0, name="a.png")


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_busiest_square_is_found():
    image = np.full((100, 140, 3), 0.5)
    image[48:80, 64:96] = np.random.default_rng(0).random((32, 32, 3))
    assert busiest_crop(image, 32) == (48, 64)


def test_comparison_shows_each_method_with_its_own_score():
    restored = {f"method {i}": (i + 4) / 8 * NOISY for i in range(5)}
    figure = visual_comparison(CLEAN, NOISY, restored, crop=(30, 50), side=40, pair=("method 1", "method 4"))
    panels = {axis.get_title(): axis for axis in figure.axes}
    square = (slice(30, 70), slice(50, 90))
    for name, image in {"noisy": NOISY, **restored}.items():
        assert panels[name].get_xlabel() == f"{psnr(CLEAN[square], image[square]):.2f} dB"
    assert [title for title in panels if title.startswith("error of")] == ["error of method 1", "error of method 4"]
    signed = panels["difference of the errors"].images[0].get_array()
    expected = [panels[f"error of method {i}"].images[0].get_array() for i in (1, 4)]
    np.testing.assert_allclose(signed, expected[0] - expected[1])


def test_the_square_of_the_largest_and_of_the_least_difference():
    a, b = np.full((96, 120, 3), 0.5), np.full((96, 120, 3), 0.5)
    b[40:56, 64:80] += 0.1
    assert differing_crop(a, b, 16) == (40, 64)
    b[:16, 8:24] -= 0.2
    b += 0.01
    b[80:, :16] = 0.5
    assert differing_crop(a, b, 16, least=True) == (80, 0)


def test_comparison_shows_the_square_that_is_given():
    figure = visual_comparison(CLEAN, NOISY, {}, crop=(30, 50), side=40)
    shown = next(axis for axis in figure.axes if axis.get_title() == "noisy").images[0].get_array()
    np.testing.assert_allclose(shown, NOISY[30:70, 50:90].clip(0, 1))


def test_the_teaser_shows_one_square_of_each_version():
    figure = teaser(CLEAN, NOISY, {"half": 0.5 * NOISY}, crop=(30, 50), side=40)
    assert [axis.get_title() for axis in figure.axes] == ["clean", "noisy", "half"]
    scores = [f"{psnr(CLEAN, image):.2f} dB" for image in (NOISY, 0.5 * NOISY)]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", *scores]
    for axis, image in zip(figure.axes, (CLEAN / 255, NOISY, 0.5 * NOISY), strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), image[30:70, 50:90].clip(0, 1), atol=1e-6)


def test_scatter_counts_who_is_higher():
    scores = {"a": (30, 31, 32), "b": (31, 30, 33)}
    rows = [("set", f"{i}", 50, "float", m, v) for m, values in scores.items() for i, v in enumerate(values)]
    table = pd.DataFrame(rows, columns=["dataset", "image", "sigma", "protocol", "method", "psnr"])
    axis = scatter_of_pair(table, "a", "b", 50).axes[0]
    np.testing.assert_allclose(axis.collections[0].get_offsets(), list(zip(*scores.values(), strict=True)))
    (legend,) = axis.figure.legends
    assert legend.get_texts()[0].get_text() == "set: b higher on 2 of 3"


def test_cost_figure_places_each_method():
    axis = quality_against_cost({"fast": (0.1, 28), "slow": (10, 29)}, "seconds a megapixel").axes[0]
    assert axis.get_xscale() == "log"
    np.testing.assert_allclose([c.get_offsets()[0] for c in axis.collections], [(0.1, 28), (10, 29)])
    (legend,) = axis.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fast", "slow"]


def test_intervals_that_hold_zero_are_grey():
    table = pd.DataFrame(
        {"a": ["x", "y"], "set": "s", "difference": [0.5, -0.1], "low": [0.2, -0.3], "high": [0.8, 0.1]}
    )
    axis = forest(pd.concat([table, table.assign(set="t")]), "a", "set").axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["x", "y"]
    lines = axis.lines[:4]  # an interval and a dot each, from the top
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines], [0.2, 0.5, -0.3, -0.1])
    assert axis.yaxis_inverted()
    assert lines[0].get_color() != lines[2].get_color()
    assert [axis.get_title() for axis in axis.figure.axes] == ["s", "t"]


def test_saving_twice_gives_equal_files_with_text(tmp_path):
    for name in ("one", "two"):
        save(visual_comparison(CLEAN, NOISY, {}, side=40), tmp_path / name)
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"/FontFile2" in (tmp_path / "one.pdf").read_bytes()


def test_no_two_methods_look_alike_even_without_colours():
    colours, markers = zip(*LOOKS.values(), strict=True)
    assert len(set(colours)) == len(set(markers)) == len(LOOKS)
    assert style("another") == style("noisy")


def test_figures_have_one_style_whatever_the_caller_set():
    before = {name: plt.rcParams[name] for name in STYLE}
    with plt.rc_context({"axes.labelsize": 20, "xtick.labelsize": 20, "legend.frameon": True}):
        figure = quality_against_cost({"fast": (0.1, 28), "slow": (10, 29)}, "seconds a megapixel")
    figure.canvas.draw()
    (axis,) = figure.axes
    assert axis.xaxis.label.get_fontsize() == STYLE["axes.labelsize"]
    sizes = {label.get_fontsize() for label in (*axis.get_xticklabels(which="both"), *axis.get_yticklabels())}
    assert sizes == {STYLE["xtick.labelsize"]}
    assert not figure.legends[0].get_frame_on()
    assert {name: plt.rcParams[name] for name in STYLE} == before


def test_the_bias_of_clipping_is_the_formulas():
    """Against a million draws; at 0 it is nearly σ / √(2π)."""
    levels = np.array([0, 20, 128, 240, 255], np.uint8)
    clean = np.broadcast_to(levels[:, None, None], (5, 70_000, 3)).copy()
    error = add_noise(clean, 40, seed=0, name="a.png", protocol="8bit") - clean / 255
    np.testing.assert_allclose(255 * expected_bias(levels / 255, 40), 255 * error.mean((1, 2)), atol=0.5)
    assert 255 * expected_bias(np.zeros(1), 40)[0] == pytest.approx(40 / np.sqrt(2 * np.pi), abs=0.3)


def test_measured_and_expected_bias_are_drawn():
    figure = clipping_bias(np.zeros((30, 30, 3), np.uint8), 50, seed=0, name="a.png")
    measured, formula = figure.axes[0].lines[:2]
    assert measured.get_xdata().tolist() == [0]
    assert measured.get_ydata()[0] == pytest.approx(formula.get_ydata()[0], abs=1.5)


def test_enlarged_images_have_scores_and_one_square():
    figure = enlarged({"clean": CLEAN / 255, "noisy": NOISY}, CLEAN / 255)
    assert f"{psnr(CLEAN, NOISY):.2f} dB" in figure.axes[1].get_xlabel()
