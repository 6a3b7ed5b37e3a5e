"""Where to compute, and in what precision."""

from contextlib import nullcontext

import torch

from .errors import KitError


def choose_device(device=None):
    """`device`, or the best there is: CUDA, then MPS, then the CPU."""
    if device is not None:
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise KitError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(device, precision="auto"):
    """bfloat16 where the device has it, float16 where it has only that, float32 otherwise."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and has_bfloat16():
        return torch.bfloat16
    return torch.float32


def full_precision(x):
    """Autocast switched off: what touches the picture itself keeps its last digits, which low noise lies in."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def has_bfloat16():
    """Whether this CPU computes in bfloat16 itself."""
    return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
