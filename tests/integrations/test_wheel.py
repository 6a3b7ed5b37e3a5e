"""The wheel, built without the network and installed outside the clone, does what the README shows."""

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import sys
from pathlib import Path
import glowlib
from skimage import data
assert Path(glowlib.__file__).is_relative_to(sys.prefix), glowlib.__file__
image = data.astronaut()[:64, :80]
"""
CHECKS = """
assert glowlib.list_models().shipped == sys.argv[1:]
assert restored.shape == image.shape and restored.dtype == image.dtype
for name in sys.argv[1:]:
    glowlib.load_pretrained(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="needs the extra wheel: make test EXTRAS=1")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """An interpreter whose environment holds the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, symlinks=True)
    interpreter = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--quiet", str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    (packages / "dependencies.pth").write_text("\n".join(here) + "\n")
    return interpreter


def run(python, folder, *arguments):
    """What a command prints, without this clone in sight."""
    command = [str(python), "-I", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_readme_runs_and_every_shipped_model_opens(python, tmp_path):
    lines = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert lines
    names = sorted(path.parent.name for path in (ROOT / "results" / "models").glob("*/model.safetensors"))
    run(python, tmp_path, "-c", PRELUDE + "\n".join(lines) + CHECKS, *names)


def test_the_command_runs(python, tmp_path):
    assert "denoise" in run(python, tmp_path, "-m", "glowlib", "--help")


def test_the_wheel_is_small(wheel):
    """Code and the shipped models, and nothing else of the clone's results or data."""
    models = sum(path.stat().st_size for path in (ROOT / "results" / "models").rglob("*") if path.is_file())
    assert wheel.stat().st_size < models + 1e6
