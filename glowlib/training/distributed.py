"""Several processes that train as one, started by `torchrun`. A single process is the simplest case of it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_reduce

from ..device import world
from ..errors import KitError
from ..networks.global_context import MapNorm


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Context manager that joins the processes: NCCL between GPUs, gloo between CPUs.

    Raises:
        KitError: for several processes on a device that neither serves.
    """
    if world() == 1:
        yield
        return
    if device.type not in ("cpu", "cuda"):
        raise KitError(f"several processes train on CPUs or CUDA GPUs, not on {device}: start one")
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise KitError(f"start several processes by torchrun, or unset WORLD_SIZE ({reason})") from error
    try:
        yield
    finally:
        distributed.destroy_process_group()


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; gradients flow through it."""
    return all_reduce(tensor) if distributed.is_initialized() else tensor


def wait() -> None:
    """Block until every process has called this."""
    if distributed.is_initialized():
        distributed.barrier()


class SharedMapNorm(MapNorm):
    """`MapNorm` with statistics over the batches of all processes (PyTorch's SyncBatchNorm supports only GPUs)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, H, W) -> the same shape."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(x)
        values = x.double()
        sums = total(torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))]))
        count = total(sums.new_tensor(x.numel() // x.shape[1])).item()
        mean, var = sums[0] / count, sums[1] / count - (sums[0] / count) ** 2
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((var * count / max(1, count - 1)).to(self.running_var), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt().to(self.weight)
        offset = self.bias - mean.to(self.bias) * scale
        return torch.addcmul(offset[:, None, None], x, scale[:, None, None]).to(x.dtype)


def share_norms(net: nn.Module) -> None:
    """Replace every `MapNorm` of a network by `SharedMapNorm`, in place; parameters and their names stay."""
    for module in net.modules():
        if type(module) is MapNorm:
            module.__class__ = SharedMapNorm
