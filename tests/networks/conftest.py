"""What the tests of the networks share."""

import pytest
from originals import as_original

from glowlib.networks import fast


@pytest.fixture(params=["fast", "plain"])
def form(request):
    """Run a test twice: with the optimised forms of the networks, and with the plain ones."""
    if request.param == "plain":
        with fast.disabled():
            yield "plain"
    else:
        yield "fast"


@pytest.fixture(scope="module")
def originals(build):
    """Small checkpoints of the four networks, as the original saves them."""
    networks = {"sunet": {"denoising_head": True}, "gcunet": {}, "glownet": {}, "sglownet": {}}
    return {name: as_original(build(name, **options)) for name, options in networks.items()}
