"""One training step, with activation checkpointing and several processes."""

from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..device import world
from ..errors import KitError
from ..networks.cross_attention import CrossAttn, ResidualInsideAttn
from ..networks.swin import SwinBlock
from ..networks.upsample import DualUpsample
from .config import TrainingConfig
from .distributed import share_norms
from .gradient_accumulation import GradientAccumulation
from .optim import make_loss
from .state import TrainState

CHECKPOINTED = (SwinBlock, DualUpsample, CrossAttn, ResidualInsideAttn)


def checkpoint_activations(net: nn.Module) -> None:
    """Enable activation checkpointing for Swin blocks, cross-attention and up-sampling, in place.

    Only their inputs are kept in the forward pass; the backward pass computes their activations again
    (https://arxiv.org/abs/1604.06174).
    """
    for module in net.modules():
        if isinstance(module, CHECKPOINTED):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
            module.checkpointed = True  # optimised forms, which bypass `forward`, look at this


class TrainingStep:
    """Forward, backward, clip, optimiser, EMA. The training, its estimate and the speed measurement call it."""

    def __init__(
        self,
        state: TrainState,
        config: TrainingConfig,
        micro_batch: int | None = None,
        compiled: str | None = None,
    ):
        """
        Args:
            state: what the step changes.
            config: the recipe: loss, clipping, batch size.
            micro_batch: crops per forward pass on this device; by default all of its share of the batch. It is halved
                when the memory is full.
            compiled: a mode of torch.compile, or None.
        """
        self.state, self.clip = state, config.clip
        if world() > 1:
            share_norms(state.net)
        net = DistributedDataParallel(state.net) if world() > 1 else state.net
        try:
            forward = torch.compile(net, mode=compiled) if compiled else net
        except RuntimeError as error:
            raise KitError(f"--compile: {str(error).splitlines()[0]}") from error
        micro_batch = micro_batch or max(stage.batch_size for stage in config.crop_stages()) // world()
        self.backward = GradientAccumulation(state, net, forward, make_loss(config), micro_batch)

    def __call__(self, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Make a step.

        Args:
            noisy: (batch, 3, H, W), float32, on any device: this process's share of the batch.
            clean: the same crops without noise.
        Returns:
            The mean loss over the share, a scalar without gradient, on the step's device.
        Raises:
            KitError: where torch.compile fails, which it does when the first batch comes.
        """
        state = self.state
        try:
            loss = self.backward(noisy, clean)
        except RuntimeError as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise KitError("--compile: PyTorch cannot compile this network here. Train without --compile") from error
        state.scaler.unscale_(state.optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(state.net.parameters(), self.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.ema.update(state.net, step=state.step)
        return loss
