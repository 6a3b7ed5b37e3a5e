"""What a reader of the committed notebooks sees; that they run, and give the same again, is nbval's to check."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_warnings_and_no_paths_of_one_machine(path):
    for cell in nbformat.read(path, 4).cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]
            texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
            for text in texts:
                assert not re.search(r"(?<![\w.])/(work|home|root|tmp|Users|mnt|opt|usr)/", text), text
