"""What the tests of the networks share."""

import pytest
from originals import as_original


@pytest.fixture(scope="module")
def originals(build):
    """Small checkpoints of the four networks, as the original saves them."""
    networks = {"sunet": {"denoising_head": True}, "gcunet": {}, "glownet": {}, "sglownet": {}}
    return {name: as_original(build(name, **options)) for name, options in networks.items()}
