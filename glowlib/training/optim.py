"""What a training is made of: its first weights, the loss, the optimiser, the learning rate."""

import torch
from timm.optim import Muon
from timm.scheduler import CosineLRScheduler
from torch import nn

from ..errors import KitError
from ..networks import create_model
from ..networks.pretrained import load_pretrained


def begin(network, options, start):
    """A new network, or one that begins with the weights of a trained one: a shipped name or a file."""
    net = create_model(network, **options)
    if start:
        trained = load_pretrained(start)
        if (trained.name, trained.config) != (net.name, net.config):
            raise KitError(f"{start} holds another network ({trained.name}) or other options than the model to train")
        net.load_state_dict(trained.state_dict())
    return net


def loss_of(config):
    """(restored, clean) -> the configured loss, a mean over all values."""
    return charbonnier if config.loss == "charbonnier" else nn.functional.l1_loss


def charbonnier(restored, clean):
    """A smooth L1 (https://arxiv.org/abs/1710.01992): the mean of sqrt(error² + 0.001²)."""
    return torch.sqrt((restored - clean) ** 2 + 1e-6).mean()


def make_optimizer(model, config):
    """Adam, AdamW, or Muon for matrices with AdamW for the rest.

    Only matrices and kernels decay: no biases, norms or position tables.
    """
    groups = [
        {"params": [p for n, p in model.named_parameters() if matrix(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in model.named_parameters() if not matrix(n, p)], "weight_decay": 0.0},
    ]
    if config.optimizer == "muon":  # steps of AdamW's size, so that its learning rates serve
        groups[1]["use_fallback"] = True
        return Muon(groups, lr=config.lr, betas=config.betas, adjust_lr_fn="match_rms_adamw")
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    fused = next(model.parameters()).device.type != "mps"
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)


def matrix(name, parameter):
    return parameter.ndim in (2, 4) and not name.endswith("relative_position_bias_table")


class Schedule:
    """Sets the rate of a step: linear warm-up, then a cosine down to min_lr; after each restart another one (SGDR,
    https://arxiv.org/abs/1608.03983). The first rate is the warm-up's first stair, not 0.
    """

    def __init__(self, optimizer, config):
        starts = [config.warmup, *(step for step in config.restarts if step < config.steps)]
        ends = [*starts[1:], max(config.steps, config.warmup + 1)]
        first = config.lr * min(1, config.epoch / max(1, config.warmup))
        warmup = {"warmup_t": config.warmup, "warmup_lr_init": first, "warmup_prefix": True}
        self.config, self.starts, self.cosines = config, starts, []
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            for group in optimizer.param_groups:  # where timm looks for the rate to begin with
                group["initial_lr"] = config.restart_lr[i - 1] if i else config.lr
            given = {"lr_min": config.min_lr, "t_in_epochs": False, **({} if i else warmup)}
            self.cosines.append(CosineLRScheduler(optimizer, end - start, initialize=False, **given))

    def step_update(self, step):
        part = self.config.part(step)
        self.cosines[part].step_update(step - self.starts[part] if part else step)
