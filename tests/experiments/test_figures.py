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
    intervals,
    learning_curves,
    psnr_against_sigma,
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


def test_comparison_shows_each_method_with_its_score():
    figure = visual_comparison(CLEAN, NOISY, {"half": 0.5 * NOISY}, side=40)
    titles = [axis.get_title() for axis in figure.axes]
    assert [t for t in titles if t] == ["clean", "noisy", "half", "clean"]
    labels = [axis.get_xlabel() for axis in figure.axes]
    assert f"{psnr(CLEAN, NOISY):.2f} dB" in labels
    assert f"{psnr(CLEAN, 0.5 * NOISY):.2f} dB" in labels
    assert labels[0] == "dB: PSNR of the whole image"


def test_comparison_of_many_methods_takes_two_lines():
    restored = {f"method {i}": (i + 1) / 8 * NOISY for i in range(7)}
    figure = visual_comparison(CLEAN, NOISY, restored, side=40)
    shown = [axis for axis in figure.axes if axis.get_title()][1:]  # without the whole image
    assert [axis.get_title() for axis in shown] == ["noisy", *restored, "clean"]
    assert [axis.get_subplotspec().rowspan.start for axis in shown] == [0] * 5 + [2] * 4
    assert [axis.get_xlabel() for axis in shown[1:8]] == [f"{psnr(CLEAN, r):.2f} dB" for r in restored.values()]


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


def test_curves_hold_the_summarys_numbers():
    rows = [
        ("set", "float", s, m, v)
        for m, base in (("noisy", 0), ("net", 5))
        for s, v in ((10, 28 + base), (50, 15 + base))
    ]
    summary = pd.DataFrame(rows, columns=["dataset", "protocol", "sigma", "method", "psnr"])
    axis = psnr_against_sigma(summary).axes[0]
    assert [line.get_label() for line in axis.lines] == ["noisy", "net"]
    np.testing.assert_allclose(axis.lines[1].get_ydata(), [33, 20])


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
    table = pd.DataFrame({"model": ["a", "b"], "difference": [0.5, -0.1], "low": [0.2, -0.3], "high": [0.8, 0.1]})
    axis = intervals(table, {"b": "second", "a": "first"}).axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["second", "first"]
    lines = axis.lines[:4]  # an interval and a dot each, from the top
    np.testing.assert_allclose([line.get_xdata()[0] for line in lines], [-0.3, -0.1, 0.2, 0.5])
    assert lines[0].get_ydata()[0] > lines[2].get_ydata()[0]
    assert lines[0].get_color() != lines[2].get_color()


def test_learning_curves_hold_the_logs_numbers():
    log = pd.DataFrame({"step": [50, 100, 150], "psnr_sigma50": [np.nan, 20.0, np.nan]})
    other = pd.DataFrame({"step": [100, 200], "psnr_sigma50": [21.0, 23.0]})
    axis = learning_curves({"a": log, "b": other}).axes[0]
    assert [line.get_label() for line in axis.lines] == ["a", "b"]
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [(100, 20)])
    np.testing.assert_allclose(axis.lines[1].get_xydata(), [(100, 21), (200, 23)])


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
