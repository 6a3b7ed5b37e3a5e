"""One training step, with gradient accumulation, activation checkpointing and several processes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from ..device import rank, world
from ..errors import KitError
from ..networks.cross_attention import CrossAttn, ResidualInsideAttn
from ..networks.swin import SwinBlock
from ..networks.upsample import DualUpsample
from .config import TrainingConfig
from .distributed import share_norms
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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device has no memory left; on CPUs and MPS only the text tells."""
    said = str(error)
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "out of memory" in said or "can't allocate memory" in said


@contextmanager
def clear_memory_errors(device: torch.device) -> Iterator[None]:
    """Context manager that turns an out-of-memory error into a KitError that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise KitError(f"out of memory on {device}: give a smaller --micro_batch, or --recompute") from error


class TrainingStep:
    """One step: forward, backward, clip, optimiser, EMA. The training, its estimate and the speed measurement call it.

    With gradient accumulation, a batch is split into micro-batches whose gradients add up to the batch's. For SUNet
    that is the same step up to rounding. GCUNet, GLOWNet and S-GLOWNet contain BatchNorm, whose statistics are then
    those of each micro-batch, so that the result differs; a line says so when it happens.
    """

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
        self.state, self.clip, self.loss = state, config.clip, make_loss(config)
        self.device = next(state.net.parameters()).device
        self.micro_batch = micro_batch or max(stage.batch_size for stage in config.crop_stages()) // world()
        self.warns = rank() == 0 and any(isinstance(module, nn.BatchNorm2d) for module in state.net.modules())
        if world() > 1:
            share_norms(state.net)
        self.net = DistributedDataParallel(state.net) if world() > 1 else state.net
        self.no_sync = self.net.no_sync if world() > 1 else nullcontext
        try:
            self.forward = torch.compile(self.net, mode=compiled) if compiled else self.net
        except RuntimeError as error:
            raise KitError(f"--compile: {str(error).splitlines()[0]}") from error

    def __call__(self, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Make a step.

        Args:
            noisy: (batch, 3, H, W), float32, on any device: this process's share of the batch.
            clean: the same crops without noise.
        Returns:
            The mean loss over the share, a scalar without gradient, on the step's device.
        """
        state = self.state
        loss = self.backward(noisy, clean)
        state.scaler.unscale_(state.optimizer)
        if self.clip:
            nn.utils.clip_grad_norm_(state.net.parameters(), self.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.ema.update(state.net, step=state.step)
        return loss

    def backward(self, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Add the gradient of a batch's mean loss to the parameters, with smaller micro-batches where memory is short.

        Arguments and result: those of a step.
        """
        while True:
            if self.warns and len(noisy) > self.micro_batch:
                self.warns = False
                tqdm.write(
                    f"note: BatchNorm sees micro-batches of {self.micro_batch}, not the batch of {len(noisy)}, "
                    "so the result differs from training without gradient accumulation"
                )
            try:
                return self.accumulate(noisy, clean)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.micro_batch == 1 or world() > 1:
                    raise
            self.state.optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.micro_batch = (min(self.micro_batch, len(noisy)) + 1) // 2
            tqdm.write(f"out of memory: continuing with micro-batches of {self.micro_batch}; the batch size stays")

    def accumulate(self, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The gradient of a batch as the sum of its micro-batches' gradients."""
        micro_batches = list(zip(noisy.split(self.micro_batch), clean.split(self.micro_batch), strict=True))
        total, autocast = 0, self.state.precision != torch.float32
        for i, (x, y) in enumerate(micro_batches):
            with nullcontext() if i == len(micro_batches) - 1 else self.no_sync():
                with torch.autocast(self.device.type, self.state.precision) if autocast else nullcontext():
                    restored = self.forward(x.to(self.device, non_blocking=True))
                loss = self.loss(restored.float(), y.to(self.device, non_blocking=True)) * (len(x) / len(noisy))
                self.state.scaler.scale(loss).backward()
            total = total + loss.detach()
        return total
