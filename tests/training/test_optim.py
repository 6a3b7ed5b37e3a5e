"""Loss and optimiser, by hand."""

import math

import pytest
import torch

from glowlib.errors import KitError
from glowlib.networks import create_model
from glowlib.training.config import TrainingConfig
from glowlib.training.optim import charbonnier, make_optimizer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"restarts": (10,), "restart_lr": (1e-3,)}, "rising steps after the warm-up"),
        ({"restarts": (30, 20), "restart_lr": (1e-3, 1e-3)}, "rising steps after the warm-up"),
        ({"restarts": (30,)}, "a learning rate above 0 for each"),
        ({"restarts": (30,), "restart_lr": (0,)}, "a learning rate above 0 for each"),
        ({"restarts": (30,), "restart_lr": (1e-3,), "restart_drawn": (0.1, 0.2)}, "a share from 0 to 1 for each"),
    ],
)
def test_restarts_that_do_not_fit_are_refused(change, said):
    with pytest.raises(KitError, match=said):
        TrainingConfig(steps=50, warmup=10, **change)


def test_what_decays(nano):
    model = create_model("sglownet", **nano)
    decayed, kept = make_optimizer(model, TrainingConfig(weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    assert all(names[id(p)].endswith("weight") and p.ndim > 1 for p in decayed["params"])
    tables = [p for p in kept["params"] if names[id(p)].endswith("bias_table")]
    assert len(tables) == 2 + 1 + 1 + 1 + 1 + 1 + 2
    assert all(p.ndim == 1 or p.shape[1:] == (1, 1) or names[id(p)].endswith("bias_table") for p in kept["params"])


def test_charbonnier_by_hand():
    a, b = torch.tensor([0.0, 0.3]), torch.tensor([0.0, 0.0])
    assert charbonnier(a, b).item() == pytest.approx((0.001 + math.sqrt(0.09 + 1e-6)) / 2)
