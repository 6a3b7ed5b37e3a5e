"""The switch between the plain networks, as in the paper's figures, and their optimised forms."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_enabled = ContextVar("glowlib_fast", default=True)  # a context variable: each thread has its own value
_traced = ContextVar("glowlib_fast_traced", default=False)


def enabled() -> bool:
    """Whether layers take their optimised forms.

    While `torch.export`, ONNX or `torch.jit.trace` traces them they do so only under `traced`: by itself an exported
    graph, which others read and optimise, shows the plain form.
    """
    return _enabled.get() and (_traced.get() or not (torch.compiler.is_exporting() or torch.jit.is_tracing()))


@contextmanager
def disabled() -> Iterator[None]:
    """Context manager that computes the plain networks: the reference implementation of the speed measurements.

    The outputs are equal up to rounding. Only the current thread (or asyncio task) is affected.
    """
    with switched(_enabled, False):
        yield


@contextmanager
def traced() -> Iterator[None]:
    """Context manager in which exported graphs show the optimised forms, too.

    What is cached by size has to be there before: call the network once on an image of the size that is exported.
    """
    with switched(_traced, True):
        yield


@contextmanager
def switched(variable: ContextVar, value: bool) -> Iterator[None]:
    """The value of a context variable, for a while."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
