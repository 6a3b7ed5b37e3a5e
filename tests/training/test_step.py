"""One step's gradients in less memory."""

import pytest
import torch
from tiny import NETWORKS

from glowlib.networks import create_model
from glowlib.training.step import checkpoint_activations


@pytest.mark.parametrize("network", NETWORKS)
def test_recomputing_keeps_fewer_activations(network, nano):
    def kept(recomputed):
        net, sizes = create_model(network, **nano), {}
        if recomputed:
            checkpoint_activations(net)

        def keep(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            net(torch.rand(1, 3, 64, 64))
        return sum(sizes.values())

    assert kept(True) < 0.8 * kept(False)
