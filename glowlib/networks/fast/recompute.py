"""Activation checkpointing (https://arxiv.org/abs/1604.06174) of optimised forms, which bypass a module's `forward`."""

from torch.utils.checkpoint import checkpoint


def run(function, module, *arguments):
    """function(module, *arguments), recomputed in the backward pass if `module.checkpointed` is set."""
    if getattr(module, "checkpointed", False):
        return checkpoint(function, module, *arguments, use_reentrant=False)
    return function(module, *arguments)
