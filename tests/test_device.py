"""Where to compute."""

import pytest
import torch

from glowlib.device import choose_device, choose_precision, rank, world
from glowlib.errors import KitError


def test_unusable_device_is_one_line():
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(KitError, match=device) as caught:
            choose_device(device)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("about", "precision"),
    [
        ({"cpu_name": "AMD EPYC", "amx_bf16": False}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "amx_bf16": False}, torch.float32),
    ],
)
def test_a_processor_trains_in_bfloat16_where_that_is_faster(monkeypatch, about, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: about)
    assert choose_precision(torch.device("cpu")) == precision
    assert choose_precision(torch.device("cpu"), "float32") == torch.float32


@pytest.mark.parametrize(
    ("given", "found"),
    [({}, (0, 1)), ({"RANK": "1"}, (0, 1)), ({"WORLD_SIZE": "4"}, (0, 4)), ({"WORLD_SIZE": "4", "RANK": "3"}, (3, 4))],
)
def test_the_number_of_a_process(given, found, monkeypatch):
    """A RANK that another launcher left behind does not make a single process the second one, which writes nothing."""
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert (rank(), world()) == found


@pytest.mark.parametrize(
    ("size", "number", "named"),
    [
        ("x", "0", "WORLD_SIZE"),
        ("", "0", "WORLD_SIZE"),
        ("0", "0", "WORLD_SIZE"),
        ("2", "x", "RANK"),
        ("2", "2", "RANK"),
    ],
)
def test_an_odd_environment_is_one_line(size, number, named, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", number)
    with pytest.raises(KitError, match=f"environment variable {named} is .*: unset"):
        rank()
