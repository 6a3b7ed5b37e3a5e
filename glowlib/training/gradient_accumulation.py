"""Gradient accumulation: the gradient of a batch, computed in micro-batches that fit into the memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from tqdm.auto import tqdm

from ..device import rank, world
from ..errors import KitError
from .state import TrainState


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


class GradientAccumulation:
    """Splits a batch into micro-batches whose gradients add up to the batch's.

    For SUNet that is the same gradient up to rounding. The other networks contain BatchNorm, whose statistics
    are then those of each micro-batch, so that the result differs; a line says so when it happens.
    """

    def __init__(self, state: TrainState, net: nn.Module, forward: Callable, loss: Callable, micro_batch: int):
        """
        Args:
            state: precision, gradient scaler and optimiser of the training.
            net: the network, or the same wrapped for several processes.
            forward: `net`, or its compiled form.
            loss: a function of (restored, clean), a mean over all values.
            micro_batch: crops per forward pass on this device. It is halved when the memory is full.
        """
        self.state, self.forward, self.loss, self.micro_batch = state, forward, loss, micro_batch
        self.device = next(net.parameters()).device
        self.no_sync = net.no_sync if world() > 1 else nullcontext
        norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
        self.statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self.warns = rank() == 0 and bool(norms)

    def __call__(self, noisy: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """Add the gradient of a batch's mean loss to the parameters, with smaller micro-batches where memory is short.

        Args:
            noisy: (batch, 3, H, W), float32, on any device: this process's share of the batch.
            clean: the same crops without noise.
        Returns:
            The mean loss over the share, a scalar without gradient, on the network's device.
        """
        while True:
            if self.warns and len(noisy) > self.micro_batch:
                self.warns = False
                tqdm.write(
                    f"note: BatchNorm sees micro-batches of {self.micro_batch}, not the batch of {len(noisy)}, "
                    "so the result differs from training without gradient accumulation"
                )
            before = [buffer.clone() for buffer in self.statistics]
            try:
                return self.accumulate(noisy, clean)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or self.micro_batch == 1 or world() > 1:
                    raise
            self.state.optimizer.zero_grad(set_to_none=True)
            for buffer, value in zip(self.statistics, before, strict=True):
                buffer.copy_(value)  # the failed pass does not count in BatchNorm's statistics
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
