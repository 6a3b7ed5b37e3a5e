"""The learning rate of each step: warm-up, cosine, warm restarts."""

import torch
from timm.scheduler import CosineLRScheduler

from .config import TrainingConfig


class Schedule:
    """The learning rate of each step: linear warm-up, then a cosine to `min_lr`.

    At each of `restarts` another cosine begins (SGDR, https://arxiv.org/abs/1608.03983) from its `restart_lr`. The
    first learning rate is that of the warm-up's first step, not 0.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, config: TrainingConfig):
        starts = [config.warmup, *(step for step in config.restarts if step < config.steps)]
        ends = [*starts[1:], max(config.steps, config.warmup + 1)]
        first_lr = config.lr * min(1, config.epoch / max(1, config.warmup))
        warmup = {"warmup_t": config.warmup, "warmup_lr_init": first_lr, "warmup_prefix": True}
        self.config, self.starts, self.cosines = config, starts, []
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            for group in optimizer.param_groups:  # timm reads the cosine's initial learning rate here
                group["initial_lr"] = config.restart_lr[i - 1] if i else config.lr
            options = {"lr_min": config.min_lr, "t_in_epochs": False, **({} if i else warmup)}
            self.cosines.append(CosineLRScheduler(optimizer, end - start, initialize=False, **options))

    def step_update(self, step: int) -> None:
        """Set the optimiser's learning rate for a step, counted from 0."""
        i = self.config.restarts_before(step)
        self.cosines[i].step_update(step - self.starts[i] if i else step)
