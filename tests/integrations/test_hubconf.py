"""torch.hub: one entry a shipped model."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glowlib import list_models, load_pretrained

ROOT = Path(__file__).parents[2]
HUBCONF = runpy.run_path(str(ROOT / "hubconf.py"))
ENTRIES = {name.replace("-", "_"): name for name in list_models().shipped}


def test_one_entry_for_each_shipped_model():
    assert sorted(name for name, value in HUBCONF.items() if callable(value) and name[0] != "_") == sorted(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_the_shipped_model(entry, batch):
    model, expected = torch.hub.load(str(ROOT), entry, source="local"), load_pretrained(ENTRIES[entry])
    assert not model.training
    assert HUBCONF[entry].__doc__
    x = batch(32, 48)
    with torch.no_grad():
        assert torch.equal(model(x), expected(x))


def test_nothing_is_wanted_that_glowlib_does_not_import():
    """torch.hub installs nothing: it names what is missing of `dependencies`."""
    program = "import sys, glowlib; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(HUBCONF["dependencies"]) <= set(done.stdout.split())
