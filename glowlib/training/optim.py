"""What a training is made of: its initial weights, the loss, the optimiser."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ..errors import KitError
from ..networks import create_model
from ..networks.pretrained import load_pretrained
from .config import TrainingConfig


def initial_network(network: str, options: dict, start: str | Path | None = None) -> nn.Module:
    """A network with random weights, or with those of a trained one.

    Args:
        network: its name, for `create_model`.
        options: its options.
        start: a shipped model's name or a file of trained weights; None for random weights.
    Raises:
        KitError: for options that do not fit, and for weights of another network or other options.
    """
    try:
        net = create_model(network, **options)
    except TypeError as error:  # an option of another type, such as text for a number
        raise KitError(f"the options of {network} do not fit: {error}; they are {options}") from error
    if start:
        trained = load_pretrained(start)
        if (trained.name, trained.config) != (net.name, net.config):
            raise KitError(f"{start} holds another network ({trained.name}) or other options than the model to train")
        net.load_state_dict(trained.state_dict())
    return net


def make_loss(config: TrainingConfig) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The configured loss: a function of (restored, clean), a mean over all values."""
    return charbonnier if config.loss == "charbonnier" else nn.functional.l1_loss


def charbonnier(restored: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Charbonnier loss, a smooth L1 (https://arxiv.org/abs/1710.01992): the mean of sqrt(error² + 0.001²)."""
    return torch.sqrt((restored - clean) ** 2 + 1e-6).mean()


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Adam, AdamW, or Muon (https://kellerjordan.github.io/posts/muon/) for matrices with AdamW for the rest.

    Weight decay applies to matrices and kernels only, not to biases, norms and position tables.
    """
    parameters = list(model.named_parameters())
    groups = [
        {"params": [p for n, p in parameters if is_matrix(n, p)], "weight_decay": config.weight_decay},
        {"params": [p for n, p in parameters if not is_matrix(n, p)], "weight_decay": 0.0},
    ]
    if config.optimizer == "muon":  # updates are scaled to AdamW's size, so that its learning rates apply
        try:
            from timm.optim import Muon
        except ImportError as error:
            raise KitError("optimizer muon needs timm 1.0.26 or newer: pip install --upgrade timm") from error
        groups[1]["use_fallback"] = True
        return Muon(groups, lr=config.lr, betas=config.betas, adjust_lr_fn="match_rms_adamw")
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    fused = parameters[0][1].device.type != "mps"
    return kind(groups, lr=config.lr, betas=config.betas, fused=fused)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the matrix of a linear layer or the kernel of a convolution."""
    return parameter.ndim in (2, 4) and not name.endswith("relative_position_bias_table")
