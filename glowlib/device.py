"""Where to compute, and in what precision."""

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
    if device.type == "cpu" and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
        return torch.bfloat16
    return torch.float32
