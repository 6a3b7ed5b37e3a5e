"""`make book`: README, the executed notebooks and docs/ as a static site, by Sphinx and MyST-NB."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.stem for path in (TOP / "notebooks").glob("*.ipynb"))
PAGES = sorted(path.stem for path in (TOP / "docs").glob("*.md"))

project = "glowlib"
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "notebooks/*.ipynb", "results/**.md", "tests/goldens/README.md"]
exclude_patterns = ["results/runs"]
extensions = ["myst_nb", "sphinx-mathjax-offline"]  # the formulas need no network
html_theme = "furo"
html_title = "glowlib"
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["wide.css"]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["toc.not_included", "misc.highlighting_failure", "myst.header", "mystnb.unknown_mime_type"]


def prepare(app, name: str, source: list[str]) -> None:
    """Make links to folders plain text, since a site has no pages for them, and put the contents behind README."""
    folder = (TOP / name).parent

    def without_folder(link):
        return link[1] if (folder / link[2]).is_dir() else link[0]

    source[0] = re.sub(r"(?<!!)\[([^][]+)\]\(([^)#\s:]+)\)", without_folder, source[0])
    if name == root_doc:
        parts = {"Notebooks": [f"notebooks/{stem}" for stem in NOTEBOOKS], "Pages": [f"docs/{stem}" for stem in PAGES]}
        parts["Project"] = ["results/README", "CONTRIBUTING", "CHANGELOG"]
        for caption, entries in parts.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```\n"


def setup(app) -> None:
    app.connect("source-read", prepare)
