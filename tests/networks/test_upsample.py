"""Dual up-sampling against its published form: slow, and written from the formulas."""

import pytest
import torch
from by_hand import close, randn
from torch import nn

from glowlib.networks.upsample import DualUpsample

pytestmark = pytest.mark.usefixtures("form")


@pytest.mark.parametrize(("factor", "out"), [(2, 4), (2, 8), (4, 8)])
@pytest.mark.parametrize("smooth_bias", [True, False])
def test_dual_upsample_is_the_published_form(factor, out, smooth_bias, filled):
    """Both paths at full size, concatenated, then projected."""
    up = filled(DualUpsample(8, out, factor, smooth_bias)).double()
    x = randn(2, 8, 3, 5)
    both = torch.cat([up.up_p(x), up.up_b(x)], dim=1)
    assert both.shape == (2, 2 * out, 3 * factor, 5 * factor)
    close(up(x), up.conv(both))
    assert (up.up_b[0].bias is not None) == smooth_bias
    others = [m for m in up.modules() if isinstance(m, nn.Conv2d) and m is not up.up_b[0]]
    assert all(m.bias is None for m in others)


def test_dual_upsample_layers():
    """Kernels of the two published forms: ×2 to half the channels, ×4 to the same."""
    halve, keep = DualUpsample(8, 4), DualUpsample(8, 8, 4)
    shapes = [[tuple(p.shape[:2]) for p in up.parameters() if p.ndim == 4] for up in (halve, keep)]
    assert shapes[0] == [(16, 8), (4, 4), (8, 8), (4, 8), (4, 8)]
    assert shapes[1] == [(128, 8), (8, 8), (8, 8), (8, 8), (8, 16)]
