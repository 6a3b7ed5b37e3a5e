"""The yardstick computes the same networks, by other means."""

import pytest
import torch
import torch.nn.functional as F

from glowlib import swin
from glowlib.plain import materialised_attention, plainly
from glowlib.upsample import DualUpsample


@pytest.mark.parametrize("options", [{}, {"context_fusion": ("mul", "add"), "context_pooling": "avg"}], ids=str)
@pytest.mark.parametrize("network", ["sunet", "gcunet", "glownet", "sglownet"])
def test_plain_networks_give_the_same(network, options, build, batch):
    model, image = build(network, **options), batch(48, 80)
    with torch.no_grad():
        fused = model(image)
        with plainly():
            plain = model(image)
        assert torch.equal(model(image), fused)  # and nothing stays plain
    assert not torch.equal(plain, fused)
    assert (plain - fused).norm() / fused.norm() < 1e-5


def test_plain_parts_are_really_used():
    originals = F.scaled_dot_product_attention, swin.window_mask, DualUpsample.forward
    with plainly():
        inside = F.scaled_dot_product_attention, swin.window_mask, DualUpsample.forward
    assert inside[0] is materialised_attention
    assert all(a is not b for a, b in zip(inside, originals, strict=True))
    assert originals == (F.scaled_dot_product_attention, swin.window_mask, DualUpsample.forward)
