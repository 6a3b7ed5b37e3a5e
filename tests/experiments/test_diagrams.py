"""The drawings of the networks' insides: each draws, and draws what it was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from glowlib.experiments import diagrams
from glowlib.experiments.attention_maps import AttentionWeights
from glowlib.networks import create_model
from glowlib.networks.swin import WindowAttention

NANO = {
    "embed_dim": 8,
    "patch_size": 2,
    "window_size": 4,
    "depths": (1, 1, 1, 1),
    "num_heads": (1, 2, 2, 2),
    "training_size": 32,
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def drawn(figure):
    figure.canvas.draw()
    return figure


def images_of(axis):
    return [np.asarray(image.get_array()) for image in axis.get_images()]


def test_position_bias_draws_the_first_heads_table():
    net = create_model(
        "sunet", embed_dim=8, patch_size=2, window_size=4, depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2), training_size=32
    )
    layers = [module for module in net.modules() if isinstance(module, WindowAttention)][:2]
    figure = drawn(diagrams.position_bias(layers[0].relative_position_index, layers))
    table = layers[1].relative_position_bias_table.detach()[:, 0].reshape(7, 7)
    np.testing.assert_array_equal(images_of(figure.axes[2])[0], table)


def test_masks_of_the_four_kinds_of_windows():
    mask = torch.zeros(6, 16, 16)
    mask[5, :8] = -100
    figure = drawn(diagrams.shifted_windows(8, 12, 4, 2, mask))
    titles = [axis.get_title() for axis in figure.axes[1:5]]
    assert titles == ["inside", "right", "lower", "corner"]
    assert [images_of(axis)[0].mean() for axis in figure.axes[1:5]] == [0, 0, 0, 0.5]


def test_influence_is_drawn_on_a_logarithmic_scale():
    influence = torch.full((8, 8), 1e-4)
    influence[4, 4], influence[0, 0] = 1, 0
    figure = drawn(diagrams.influence_map(influence, titles=("one",)))
    image = figure.axes[0].get_images()[0].get_array()
    assert image[4, 4] == 0
    assert image[1, 1] == pytest.approx(-4)
    assert image.mask[0, 0]


def test_influence_with_distance_has_a_curve_for_each_network():
    maps = [torch.rand(32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    figure = drawn(diagrams.influence_with_distance({"sunet-small": maps, "sglownet-small": maps[:1]}))
    lines = figure.axes[0].get_lines()
    assert len(lines) == 2
    for line in lines:
        assert (np.diff(line.get_ydata()) <= 0).all()


def test_equal_pooling_weights_are_zero():
    image = np.zeros((8, 8, 3))
    maps = [np.full((4, 4), 1 / 16), np.repeat([2 / 16, 1e-9], 8).reshape(4, 4)]
    figure = drawn(diagrams.pooling_maps({"photograph": image}, {"photograph": maps}))
    first, second = images_of(figure.axes[1])[0], images_of(figure.axes[2])[0]
    assert (first == 0).all()
    assert second[0, 0] == pytest.approx(1)


def test_attention_of_the_chosen_stage_and_query():
    weights = torch.full((1, 4, 4), 0.01)
    weights[0, 3, 0] = 0.97
    found = [AttentionWeights(stage, (2, 2), weights) for stage in ("encoder 0", "decoder 3")]
    figure = drawn(diagrams.attention_panels(np.zeros((8, 8, 3)), found, ("decoder 3",), ((0.9, 0.9),)))
    panel = figure.axes[1]
    assert panel.get_title() == "decoder 3\nhead 0"
    assert images_of(panel)[0].argmax() == 0


def test_the_two_architectures_name_every_stage_with_its_channels():
    wide, narrow = (create_model("sglownet", **NANO | {"embed_dim": c}).config for c in (16, 8))
    figure = drawn(diagrams.two_architectures(wide, narrow))
    for axis, channels in zip(figure.axes[:2], (16, 8), strict=True):
        texts = [text.get_text() for text in axis.texts]
        for label in ("encoder 0\n{}", "encoder 3\n{}", "decoder 3\n{}"):
            assert label.format(f"{channels * (8 if '3' in label and 'enc' in label else 1)} ch.") in texts
