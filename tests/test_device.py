"""Where to compute."""

import pytest
import torch

from glowlib.device import choose_device, choose_precision
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
