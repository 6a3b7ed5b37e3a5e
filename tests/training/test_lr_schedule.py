"""The learning rate, by hand."""

import math

import pytest
import torch

from glowlib.training.config import TrainingConfig
from glowlib.training.lr_schedule import Schedule


def test_rates():
    """Linear from lr / warmup, never 0; then a cosine to min_lr."""
    config = TrainingConfig(steps=50, warmup=10, lr=1e-3, min_lr=1e-5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for step in range(config.steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[:10] == pytest.approx([1e-4 + 9e-4 * step / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([1e-5 + 0.495e-3 * (1 + math.cos(math.pi * t / 40)) for t in range(40)])


@pytest.mark.parametrize("steps", [30, 50, 80, 100])
def test_rates_of_restarts(steps):
    """What comes before one does not depend on what follows; a run that ends before it has none."""
    config = TrainingConfig(steps=steps, warmup=10, lr=1e-3, min_lr=1e-5, restarts=(30, 60), restart_lr=(4e-4, 2e-4))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for step in range(steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])

    def cosine(top, count):
        return [1e-5 + (top - 1e-5) / 2 * (1 + math.cos(math.pi * t / count)) for t in range(count)]

    assert rates[:10] == pytest.approx([1e-4 + 9e-4 * step / 10 for step in range(10)])
    assert rates[10:30] == pytest.approx(cosine(1e-3, 20))
    assert rates[30:60] == pytest.approx(cosine(4e-4, max(0, min(steps, 60) - 30)))
    assert rates[60:] == pytest.approx(cosine(2e-4, max(0, steps - 60)))


def test_the_rate_changes_once_an_epoch():
    """The paper's schedule: stairs, of which the first is not 0."""
    config = TrainingConfig(steps=60, warmup=30, epoch=10, lr=3e-4, min_lr=1e-6)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    schedule = Schedule(optimizer, config)
    rates = []
    for epoch in range(6):
        schedule.step_update(epoch * config.epoch)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-4)
    assert rates[:4] == sorted(rates[:4])
    assert rates[3] == pytest.approx(3e-4)
    assert rates[3:] == sorted(rates[3:], reverse=True)
