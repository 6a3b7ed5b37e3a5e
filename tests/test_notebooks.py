"""What a reader of the committed notebooks sees; that they run, and give the same again, is nbval's to check."""

import ast
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

from glowlib.experiments.committed_outputs import WIDGET_VIEW
from glowlib.experiments.notebook import SETUP

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = {path.stem: nbformat.read(path, 4) for path in sorted(FOLDER.glob("*.ipynb"))}
each_notebook = pytest.mark.parametrize("book", NOTEBOOKS.values(), ids=NOTEBOOKS.keys())


def outputs(book):
    return [output for cell in book.cells for output in cell.get("outputs", [])]


def prose(book):
    return [cell.source for cell in book.cells if cell.cell_type == "markdown"]


@each_notebook
def test_no_warnings_and_no_paths_of_one_machine(book):
    for output in outputs(book):
        assert output.get("name") != "stderr", output["text"]
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
        for text in texts:
            assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users|mnt|opt|usr)/", text), text


@each_notebook
def test_the_set_up_comes_first_and_is_the_same_everywhere(book):
    setup = next(cell for cell in book.cells if cell.cell_type == "code")
    assert "setup" in setup.metadata["tags"]
    before, after = SETUP.split("{address}")
    assert setup.source.startswith(before)
    assert setup.source.endswith(after)


@each_notebook
def test_every_figure_has_its_own_alternative_text(book):
    kinds = ("image/png", "image/jpeg")
    figures = [(output, kind) for output in outputs(book) for kind in kinds if kind in output.get("data", {})]
    texts = [output["metadata"].get(kind, {}).get("alt", "") for output, kind in figures]
    assert all(len(text) >= 40 for text in texts), texts
    assert len(set(texts)) == len(texts)


@each_notebook
def test_measured_numbers_are_printed_by_code_and_not_typed_in_the_text(book):
    for text in prose(book):
        thresholds_removed = text.replace("±0.1 dB", "").replace(
            "is 0.3 dB?", ""
        )  # of the kit's rule, and of an exercise
        assert not re.search(r"\d\s*(dB|seconds|ms|GFLOP|megapixels?/s|images?/s)\b", thresholds_removed), text


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_is_small_enough_to_load_anywhere(name):
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1.5e6


@each_notebook
def test_widgets_keep_no_state_that_a_reader_could_not_open(book):
    assert "widgets" not in book.metadata
    assert not any(WIDGET_VIEW in output.get("data", {}) for output in outputs(book))


@each_notebook
def test_what_a_cell_prints_is_one_output_however_it_arrived(book):
    for cell in book.cells:
        names = [output.get("name") for output in cell.get("outputs", [])]
        assert not any(a == b == "stdout" for a, b in itertools.pairwise(names)), cell.source


def test_a_cell_is_committed_without_what_differs_between_two_runs():
    """Executed as `make notebooks` does, with its options."""
    options = re.search(r"-m nbconvert((?:.*\\\n)*.*)notebooks/", (FOLDER.parent / "Makefile").read_text())
    source = (
        "import time\nfrom ipywidgets import IntSlider\nprint(1, flush=True)\ntime.sleep(0.5)\nprint(2)\nIntSlider()"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "book.ipynb"
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source, id="a")]), path)
        subprocess.run([sys.executable, "-m", "nbconvert", *options[1].replace("\\", "").split(), path], check=True)
        (cell,) = nbformat.read(path, 4).cells
    assert [output.output_type for output in cell.outputs] == ["stream", "execute_result"]
    assert cell.outputs[0].text == "1\n2\n"
    assert list(cell.outputs[1].data) == ["text/plain"]
    assert "execution" not in cell.metadata


@each_notebook
def test_every_page_has_its_question_its_conclusion_exercises_and_references(book):
    text = "\n".join(prose(book))
    assert "**The question:**" in prose(book)[0]
    for heading in ("## What to conclude", "## Exercises", "## References"):
        assert heading in text


@each_notebook
def test_links_to_files_work(book):
    for text in prose(book):
        for link in re.findall(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)", text):
            if not re.match(r"https?://", link):
                assert (FOLDER / link).exists(), link


@each_notebook
def test_notebooks_define_no_network(book):
    for cell in book.cells:
        if cell.cell_type == "code":
            source = re.sub(r"(?m)^\s*[%!].*$", "pass", cell.source)
            assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
