"""Several processes that work as one: what `torchrun` starts. One process alone is the simplest case of it."""

import os
from contextlib import contextmanager

import torch
from torch import distributed
from torch.distributed.nn.functional import all_reduce

from ..device import choose_device


def rank():
    """This process's number, from 0; process 0 does the writing."""
    return int(os.environ.get("RANK", 0))


def world():
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", 1))


def own_device(device=None):
    """`choose_device`, and of several GPUs in one machine the one of this process."""
    device = choose_device(device)
    if device.type == "cuda" and device.index is None and world() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device):
    """Join the processes for the time of a `with` block: NCCL between GPUs, gloo between CPUs."""
    if world() == 1:
        yield
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def total(tensor):
    """The sum of a tensor over all processes; gradients flow through it."""
    return all_reduce(tensor) if distributed.is_initialized() else tensor


def wait():
    """Go on when every process has come here."""
    if distributed.is_initialized():
        distributed.barrier()
