"""What the notebooks share: parameters, figures, the comparison with the modules, the set-up cell."""

import subprocess
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

from glowlib.errors import KitError
from glowlib.experiments.notebook import figure_image, require, same, setup_cell, write_setup


@pytest.mark.parametrize(
    ("value", "kind", "result"),
    [
        (3, int, 3),
        ("3", int, 3),
        (3.0, int, 3),
        ("2.5", float, 2.5),
        (2, float, 2.0),
        ("a", str, "a"),
        (True, bool, True),
    ],
)
def test_parameters_are_taken_as_text_too(value, kind, result):
    found = require("side", value, kind)
    assert found == result
    assert type(found) is kind


@pytest.mark.parametrize(
    ("value", "kind", "limits", "words"),
    [
        (2.5, int, {}, "is a whole number, not 2.5"),
        ("many", int, {}, "is a whole number, not 'many'"),
        (float("nan"), float, {}, "is a number, not nan"),
        (None, float, {}, "is a number, not None"),
        (float("inf"), int, {}, "is a whole number, not inf"),
        (1, str, {}, "is a text, not 1"),
        ("no", bool, {}, "is True or False, not 'no'"),
        (0, int, {"least": 1}, "is at least 1, not 0"),
        ("loud", str, {"choices": ("float", "8bit")}, "is one of float, 8bit, not 'loud'"),
    ],
)
def test_other_parameters_are_refused_by_name(value, kind, limits, words):
    with pytest.raises(KitError) as refused:
        require("side", value, kind, **limits)
    assert str(refused.value) == f"parameter side {words}"


@pytest.mark.parametrize(("photographs", "kind"), [(False, "image/png"), (True, "image/jpeg")])
def test_a_figure_has_its_size_its_text_and_is_closed(photographs, kind):
    figure = plt.figure(figsize=(4, 2))
    image = figure_image(figure, "two lines that cross", photographs)
    assert image.width == 4 * figure.dpi
    assert image._repr_mimebundle_()[1][kind]["alt"] == "two lines that cross"
    assert figure.number not in plt.get_fignums()


def test_what_differs_from_the_module_is_an_error(capsys):
    same(torch.ones(3), torch.ones(3) + 1e-7)
    assert capsys.readouterr().out == "the same as the module: True\n"
    with pytest.raises(AssertionError):
        same(torch.ones(3), torch.full((3,), 1.01))


def run_setup(folder, address):
    """Run the set-up cell with a Python that lacks glowlib, as Colab's does."""
    script = folder / "cell.py"
    script.write_text(setup_cell(address))
    return subprocess.run([sys.executable, "-S", "-I", script], cwd=folder, capture_output=True, text=True, check=False)


def test_without_the_kit_the_set_up_says_what_to_do(tmp_path):
    assert "Set ADDRESS in this cell" in run_setup(tmp_path, "").stderr
    (tmp_path / "glowlib").mkdir()
    (tmp_path / "glowlib" / "__init__.py").touch()
    assert "run `make setup` in the clone" in run_setup(tmp_path, "https://github.com/a/b").stderr


def test_the_set_up_clones_installs_and_imports_in_the_same_session(tmp_path):
    source = tmp_path / "source"
    for name, text in {
        "glowlib/__init__.py": "",
        "glowlib/device.py": "def choose_device():\n    return 'cpu'\n",
        "notebooks/colab.py": "print('installs')\n",
    }.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    git = ["git", "-C", source, "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a kit"]):
        subprocess.run([*git, *command], check=True)
    work = tmp_path / "work"
    work.mkdir()
    for _ in range(2):  # the second time the clone is there
        done = run_setup(work, source.as_uri())
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["installs", "device: cpu"]


def test_a_notebook_without_a_set_up_cell_gets_one(tmp_path):
    path = tmp_path / "a.ipynb"
    title, code = nbformat.v4.new_markdown_cell("# A page"), nbformat.v4.new_code_cell("1 + 1")
    nbformat.write(nbformat.v4.new_notebook(cells=[title, code]), path)
    for badge in ("[![Open in Colab](one)](two)", "[![Open in Colab](three)](four)", ""):
        write_setup(path, "https://github.com/a/b", badge)
        first, setup, last = nbformat.read(path, 4).cells
        assert first.source == ("# A page\n\n" + badge).rstrip()
        assert setup.source == setup_cell("https://github.com/a/b")
        assert last.source == "1 + 1"
