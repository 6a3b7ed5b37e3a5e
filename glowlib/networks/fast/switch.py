"""The switch between the plain networks, as in the paper's figures, and their optimised forms."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_enabled = ContextVar("glowlib_fast", default=True)  # a context variable: each thread has its own value


def enabled() -> bool:
    """Whether layers take their optimised forms; never while `torch.export`, ONNX or `torch.jit.trace` traces them.

    An exported graph is read, optimised and run by others, so it shows the plain form.
    """
    return _enabled.get() and not (torch.compiler.is_exporting() or torch.jit.is_tracing())


@contextmanager
def disabled() -> Iterator[None]:
    """Context manager that computes the plain networks: the reference implementation of the speed measurements.

    The outputs are equal up to rounding. Only the current thread (or asyncio task) is affected.
    """
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)
