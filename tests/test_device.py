"""Where to compute."""

import pytest

from glowlib.device import choose_device
from glowlib.errors import KitError


def test_unusable_device_is_one_line():
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(KitError, match=device) as caught:
            choose_device(device)
        assert "\n" not in str(caught.value)
