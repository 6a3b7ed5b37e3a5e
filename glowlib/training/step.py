"""One step's gradients, in as much memory as there is: parts of a batch, recomputed activations, several processes."""

from contextlib import nullcontext
from functools import partial

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from ..device import world
from ..errors import KitError
from ..networks.cross_attention import CrossAttn, ResidualInsideAttn
from ..networks.swin import SwinBlock
from ..networks.upsample import DualUpsample
from .distributed import share_norms
from .optim import loss_of

CHECKPOINTED = (SwinBlock, DualUpsample, CrossAttn, ResidualInsideAttn)


def checkpoint_activations(net):
    """Enable activation checkpointing for Swin blocks, cross-attention and up-sampling."""
    for module in net.modules():
        if isinstance(module, CHECKPOINTED):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
            module.checkpointed = True  # optimised forms, which bypass `forward`, look at this


class Backward:
    """Forward and backward of a batch, in parts that fit the device's memory."""

    def __init__(self, net, config, precision, scaler, micro_batch=None, compiled=None):
        """micro_batch: crops at once on this device (default: all of its share; halved when memory runs out).

        compiled: a mode of torch.compile, or None.
        """
        self.device = next(net.parameters()).device
        self.precision, self.scaler = precision, scaler
        self.micro_batch = micro_batch or max(count for *_, count in config.stretches()) // world()
        self.loss = loss_of(config)
        if world() > 1:
            share_norms(net)
        self.net = DistributedDataParallel(net) if world() > 1 else net
        self.no_sync = self.net.no_sync if world() > 1 else nullcontext
        self.forward = torch.compile(self.net, mode=compiled) if compiled else self.net

    def __call__(self, noisy, clean):
        """Add the gradients of a batch's mean loss to the parameters; return that loss."""
        while True:
            try:
                return self.backward(noisy, clean)
            except torch.OutOfMemoryError as error:
                if self.micro_batch == 1 or world() > 1:
                    raise KitError(
                        f"{self.micro_batch} crops at once do not fit the memory of {self.device}: "
                        "give a smaller --micro_batch, or --recompute"
                    ) from error
            self.net.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            self.micro_batch = (self.micro_batch + 1) // 2
            tqdm.write(f"out of memory: going on with {self.micro_batch} crops at once; the batch stays the same")

    def backward(self, noisy, clean):
        parts = list(zip(noisy.split(self.micro_batch), clean.split(self.micro_batch), strict=True))
        sums, lower = 0, self.precision != torch.float32
        for i, (x, y) in enumerate(parts):
            with nullcontext() if i == len(parts) - 1 else self.no_sync():
                with torch.autocast(self.device.type, self.precision) if lower else nullcontext():
                    restored = self.forward(x.to(self.device, non_blocking=True))
                part = self.loss(restored.float(), y.to(self.device, non_blocking=True)) * (len(x) / len(noisy))
                self.scaler.scale(part).backward()
            sums = sums + part.detach()
        return sums
