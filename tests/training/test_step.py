"""One training step, and activation checkpointing."""

import copy

import pytest
import torch
from tiny import NETWORKS

from glowlib.networks import create_model
from glowlib.training.config import TrainingConfig
from glowlib.training.estimate import SavedTensors
from glowlib.training.state import TrainState
from glowlib.training.step import TrainingStep, checkpoint_activations


def test_a_step_by_hand(nano):
    """Loss, gradient, clipping, Adam's update and the average, each written out."""
    config = TrainingConfig(optimizer="adam", lr=1e-2, clip=0.05, ema=0.9, precision="float32", batch_size=2, crop=32)
    torch.manual_seed(0)
    net = create_model("sunet", **nano)
    state = TrainState(net, config)
    expected = copy.deepcopy(net)
    clean = torch.rand(2, 3, 32, 32)
    noisy = clean + 0.1 * torch.randn_like(clean)
    step = TrainingStep(state, config)
    average = {n: p.detach().clone() for n, p in net.named_parameters()}
    for number in (1, 2):
        torch.manual_seed(number)
        loss = step(noisy, clean)
        torch.manual_seed(number)
        by_hand = (expected(noisy) - clean).abs().mean()
        assert loss.item() == pytest.approx(by_hand.item(), rel=1e-6)
        if number == 2:
            break
        by_hand.backward()
        norm = sum(p.grad.square().sum() for p in expected.parameters()).sqrt()
        assert norm > config.clip
        with torch.no_grad():
            for p in expected.parameters():  # Adam's first step, without bias: lr · sign, softened by its ε
                gradient = p.grad * config.clip / norm
                p -= config.lr * gradient / (gradient.abs() + 1e-8)
        assert all(p.grad is None for p in net.parameters())
        for (n, p), q in zip(net.named_parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=2e-4, rtol=0)
            p.data = q.data.clone()
            average[n] = p.detach().clone()  # the average begins with the first step's weights
        expected.zero_grad(set_to_none=True)
    assert state.step == 2
    decay = min(0.9, 1 - 2 ** (-2 / 3))
    for n, p in state.ema.module.named_parameters():
        first = average[n] * decay
        torch.testing.assert_close(p, first + (1 - decay) * dict(net.named_parameters())[n], atol=2e-4, rtol=0)


@pytest.mark.parametrize("network", NETWORKS)
def test_activation_checkpointing_saves_fewer_tensors(network, nano):
    def saved(checkpointed):
        net = create_model(network, **nano)
        if checkpointed:
            checkpoint_activations(net)
        with SavedTensors(list(net.parameters())) as counted:
            net(torch.rand(1, 3, 64, 64))
        return counted.peak

    assert saved(True) < 0.8 * saved(False)


def test_saved_tensors_by_hand():
    """What two products save is counted once a tensor, without the weight, and not added up over backward passes."""
    weight = torch.ones(4, 4, requires_grad=True)
    x = torch.ones(10, 4)
    with SavedTensors([weight]) as counted:
        for _ in range(3):
            y = x @ weight  # saves x
            (y * y).sum().backward()  # saves y
    assert counted.peak == x.nbytes + y.nbytes
