"""The yardstick computes the same networks, by other means."""

import pytest
import torch

from glowlib.networks import cross_attention, glownet, swin
from glowlib.networks.fast import linear
from glowlib.networks.plain import plainly
from glowlib.networks.upsample import DualUpsample


@pytest.mark.parametrize("options", [{}, {"context_fusion": ("mul", "add"), "context_pooling": "avg"}], ids=str)
@pytest.mark.parametrize("network", ["sunet", "gcunet", "glownet", "sglownet"])
def test_plain_networks_give_the_same(network, options, build, batch):
    model, image = build(network, **options), batch(48, 80)
    with torch.no_grad():
        fused = model(image)
        with plainly():
            plain = model(image)
        assert torch.equal(model(image), fused)  # and nothing stays plain
    with_gradient = model(image)  # other kernels, and S-GLOWNet's first map at full size
    assert with_gradient.requires_grad
    assert (with_gradient - fused).norm() / fused.norm() < 1e-5
    assert not torch.equal(plain, fused)
    assert (plain - fused).norm() / fused.norm() < 1e-5


def test_plain_parts_are_really_used():
    def parts():
        return (
            cross_attention.attention,
            swin.through_blocks,
            glownet.context_chain,
            DualUpsample.forward,
            linear.fusable,
        )

    originals = parts()
    with plainly():
        inside = parts()
        assert not inside[-1](torch.zeros(1), torch.zeros(1))
    assert all(a is not b for a, b in zip(inside, originals, strict=True))
    assert parts() == originals
