"""The influence of pixels, on networks whose reach is known."""

import numpy as np
import pytest
import torch
from torch import nn

from glowlib.experiments.influence import beyond, reached


def image(side=16):
    return np.random.default_rng(0).random((side, side, 3))


def test_a_convolution_reaches_its_kernel_and_no_further():
    torch.manual_seed(0)
    net = nn.Conv2d(3, 3, 5, padding=2)
    influence = reached(net, image(), 25)
    assert influence.shape == (16, 16)
    assert (influence > 0).sum() == 25
    assert (influence[6:11, 6:11] > 0).all()
    torch.testing.assert_close(influence[6:11, 6:11].sum(), net.weight.abs().sum().double())
    assert net.weight.dtype == torch.float32


def test_a_mean_over_the_image_reaches_every_pixel_alike():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return self.gain * x.mean((2, 3), keepdim=True).expand_as(x)

    influence = reached(Mean(), image(), 25)
    torch.testing.assert_close(influence, torch.full((16, 16), 3 / 256, dtype=torch.float64))
    assert beyond(influence, [0, 100]) == [pytest.approx(255 / 256), 0.0]


def test_the_share_falls_with_the_radius():
    influence = torch.rand(33, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = beyond(influence, range(0, 30, 3))
    assert shares == sorted(shares, reverse=True)
    middle = torch.zeros(33, 33)
    middle[16, 16] = 1
    assert beyond(middle, [0]) == [0.0]
