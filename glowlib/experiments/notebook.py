"""What the notebooks share: checked parameters, figures with alternative text, links, the set-up cell."""

from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..errors import KitError

SETUP = """\
# Set-up, the same in every notebook. Colab clones the kit from ADDRESS, which `make colab REPO=owner/name` writes.
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ADDRESS = os.environ.get("GLOWLIB_ADDRESS", "{address}")
# A folder named glowlib has no origin. A clone's package cannot run without timm.
found = importlib.util.find_spec("glowlib")
if not (found and found.origin and importlib.util.find_spec("timm")):
    if any((folder / "glowlib" / "__init__.py").exists() for folder in (Path.cwd(), Path.cwd().parent)):
        raise SystemExit("This kernel lacks glowlib: run `make setup` in the clone and choose the kernel of its .venv.")
    if not ADDRESS:
        raise SystemExit("Set ADDRESS in this cell to the address of the kit's repository.")
    clone = Path("glowlib-clone").resolve()
    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", ADDRESS, clone], check=True)
    subprocess.run([sys.executable, clone / "notebooks" / "colab.py"], check=True)
    sys.path.insert(0, str(clone))
    os.chdir(clone / "notebooks")
    from glowlib.device import choose_device

    print("device:", choose_device())"""


def require(name: str, value: Any, kind: type, *, least: float | None = None, choices: tuple = ()) -> Any:
    """Check a notebook's parameter, which may come from a command line as text.

    Args:
        name: of the parameter.
        value: as given.
        kind: int, float, str or bool; 96.0 and "96" are whole numbers, too.
        least: smallest value of a number.
        choices: the values that are allowed, where only some are.
    Returns:
        The value as `kind`.
    Raises:
        KitError: one line that names the parameter.
    """
    words = {int: "a whole number", float: "a number", str: "a text", bool: "True or False"}
    try:
        found = kind(float(value)) if kind is int else kind(value)
        fits = found == float(value) if kind in (int, float) else isinstance(value, kind)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise KitError(f"parameter {name} is {words[kind]}, not {value!r}")
    if least is not None and found < least:
        raise KitError(f"parameter {name} is at least {least}, not {value!r}")
    if choices and found not in choices:
        raise KitError(f"parameter {name} is one of {', '.join(map(str, choices))}, not {value!r}")
    return found


def figure_image(figure: Figure, alt: str, photographs: bool = False):
    """A figure as an IPython image with alternative text, denser than the page for sharp screens; the figure is closed.

    Args:
        figure: a matplotlib figure.
        alt: what it shows, for readers who cannot see it.
        photographs: store a JPEG, which for photographs and noise is several times smaller than a PNG.
    """
    from IPython.display import Image

    data, kind = BytesIO(), "jpeg" if photographs else "png"
    options = {"dpi": 1.6 * figure.dpi, "pil_kwargs": {"quality": 80}} if photographs else {"dpi": 2 * figure.dpi}
    figure.savefig(data, format=kind, **options)
    plt.close(figure)
    return Image(data.getvalue(), format=kind, width=round(figure.get_figwidth() * figure.dpi), alt=alt)


def show_figure(figure: Figure, alt: str, photographs: bool = False) -> None:
    """Display a figure in a notebook, see `figure_image`."""
    from IPython.display import display

    display(figure_image(figure, alt, photographs))


def same(ours, theirs) -> None:
    """Compare what a notebook computes with what the module computes: say that it is the same, or fail.

    Args:
        ours, theirs: tensors.
    Raises:
        AssertionError: where they differ by more than rounding.
    """
    import torch

    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    print("the same as the module: True")


def setup_cell(address: str = "") -> str:
    """The source of the notebooks' first code cell, with the address that Colab clones."""
    return SETUP.replace("{address}", address)


def write_setup(path: Path, address: str, badge: str) -> None:
    """Write the set-up cell and the Colab badge of one notebook.

    Args:
        path: of the notebook; its first cell is Markdown, its cell with the tag "setup" is replaced or added as second.
        address: see `setup_cell`.
        badge: Markdown of the badge, the last line of the first cell; empty for none.
    """
    import nbformat

    book = nbformat.read(path, 4)
    first = book.cells[0]
    lines = [line for line in first.source.splitlines() if not line.startswith("[![Open in Colab]")]
    first.source = "\n".join(lines).rstrip() + (f"\n\n{badge}" if badge else "")
    tagged = [cell for cell in book.cells if "setup" in cell.metadata.get("tags", [])]
    if not tagged:
        tagged = [nbformat.v4.new_code_cell(id="setup")]
        book.cells.insert(1, tagged[0])
    tagged[0].source = setup_cell(address)
    # Folded in the book and in JupyterLab.
    tagged[0].metadata = {"tags": ["setup", "hide-input"], "jupyter": {"source_hidden": True}}
    nbformat.write(book, path)
