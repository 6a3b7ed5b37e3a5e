"""The state of a training: everything a checkpoint holds."""

from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn

from ..device import choose_precision
from ..errors import KitError
from .checkpoints import check_same, save_checkpoint
from .config import TrainingConfig
from .optim import make_optimizer


class TrainState:
    """Weights, EMA weights, optimiser state, gradient scaler and step count.

    Attributes:
        net: the network in training.
        ema: `ema.module` is the same network with the averaged weights, in eval mode.
        optimizer: see `make_optimizer`.
        precision: data type of the forward pass under autocast; float32 switches autocast off.
        scaler: loss scaling, enabled for float16 only.
        step: number of steps made.
    """

    def __init__(self, net: nn.Module, config: TrainingConfig):
        device = next(net.parameters()).device
        self.net = net.train()
        if config.batch_norm == "frozen":
            for module in net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        self.ema = ModelEmaV3(net, decay=config.ema, use_warmup=True)
        self.optimizer = make_optimizer(net, config)
        self.precision = choose_precision(device, config.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == torch.float16)
        self.step, self.last_step = 0, config.steps

    def parts(self) -> dict[str, Any]:
        """What has a state_dict, by its key in a checkpoint."""
        return {"model": self.net, "ema": self.ema.module, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self, folder: Path, description: dict) -> None:
        """Write a checkpoint with the run's description into its folder. Raises KitError if it cannot be written."""
        parts = {key: part.state_dict() for key, part in self.parts().items()}
        save_checkpoint(folder, {"step": self.step, "description": description, **parts})

    def load(self, checkpoint: dict, description: dict) -> None:
        """Continue from a checkpoint of `load_checkpoint`.

        Raises:
            KitError: if the checkpoint belongs to a run with another description, or does not fit the network.
        """
        try:
            check_same(checkpoint["description"], description)
            for key, part in self.parts().items():
                part.load_state_dict(checkpoint[key])
            self.step = checkpoint["step"]
            if type(self.step) is not int or not 0 <= self.step <= self.last_step:
                raise TypeError(f"it is of step {self.step!r}, of {self.last_step}")
        except (KeyError, TypeError, AttributeError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
            raise KitError(f"the checkpoint does not fit this training ({reason}): give another --out") from error

    def is_finite(self) -> bool:
        """Whether every weight is finite."""
        return all(p.isfinite().all() for p in self.net.parameters())
