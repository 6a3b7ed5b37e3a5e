"""Where to compute, in what precision, and which of several processes this one is."""

import os

import torch

from .errors import KitError


def choose_device(device=None):
    """`device`, or the best there is: CUDA, then MPS, then the CPU. Raises KitError for one that cannot be used."""
    if device is not None:
        try:
            torch.ones(1, device=device).item()  # a meta tensor has no values
        except Exception as error:  # an absent backend raises errors of any kind, ModuleNotFoundError among them
            reason = (str(error).splitlines() or [type(error).__name__])[0].split(". ")[0]
            raise KitError(f"cannot use device {str(device)!r}, try cpu: {reason}") from error
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(device, precision="auto"):
    """bfloat16 where the device has it and gains by it, float16 where a GPU has only that, float32 otherwise."""
    if precision != "auto":
        return getattr(torch, precision)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and gains_by_bfloat16():
        return torch.bfloat16
    return torch.float32


def has_bfloat16():
    """Whether this CPU computes in bfloat16 itself."""
    return getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()


def gains_by_bfloat16():
    """Whether this CPU trains faster in bfloat16: an AMD processor with AVX-512, or an Intel processor with AMX.

    With AVX-512 alone, an Intel Xeon multiplied matrices at 80 GFLOP/s in bfloat16 and 145 in float32.
    """
    if not has_bfloat16():
        return False
    about = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of PyTorch do not know
    return "Intel" not in about.get("cpu_name", "") or about.get("amx_bf16", False)


def rank():
    """This process's number, from 0; process 0 does the writing."""
    number = from_environment("RANK", 0) if world() > 1 else 0
    if number >= world():
        raise KitError(f"the environment variable RANK is {number}, but WORLD_SIZE is {world()}: unset both")
    return number


def world():
    """How many processes there are, as torchrun tells it."""
    return from_environment("WORLD_SIZE", 1)


def from_environment(name, least):
    """A whole number that torchrun sets; `least` where it is not set."""
    text = os.environ.get(name, str(least))
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise KitError(f"the environment variable {name} is a whole number from {least} up, not {text!r}: unset it")
    return int(text)


def own_device(device=None):
    """`choose_device`, and of several GPUs in one machine the one of this process."""
    device = choose_device(device)
    if device.type == "cuda" and device.index is None and world() > 1:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    return device
