"""The denoising head against a plain reference: slow, and written from the formulas."""

import pytest
import torch
import torch.nn.functional as F
from by_hand import close, plain_swin_block, randn

from glowlib.networks.denoising_head import DenoisingHead

pytestmark = pytest.mark.usefixtures("form")


def test_denoising_head(filled):
    head = filled(DenoisingHead(8, 2, 4, 2, None, [0.0, 0.0])).double()
    x = randn(2, 5, 6, 8)
    m = x
    for j, block in enumerate(head.block.blocks):
        m = plain_swin_block(block, m, 2, 4, 2 * j, 0.5)
    m = m.permute(0, 3, 1, 2)
    channel, spatial = head.se_block.cSE, head.se_block.sSE
    c = channel.fc2(channel.fc1(m.mean((2, 3))).clamp(min=0)).sigmoid()[..., None, None]
    s = (torch.einsum("bdhw,d->bhw", m, spatial.conv.weight[0, :, 0, 0]) + spatial.conv.bias).sigmoid()[:, None]
    assert channel.fc1.out_features == 4
    m = torch.where(m * c > m * s, m * c, m * s)
    seen = torch.stack([m.mean(1), m.max(1).values], dim=1)
    m = m * F.conv2d(F.pad(seen, (3, 3, 3, 3)), head.spatial_attn.conv.weight).sigmoid()
    close(head(x), m.permute(0, 2, 3, 1))
