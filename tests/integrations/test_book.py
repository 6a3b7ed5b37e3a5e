"""The book (`make book`): every link and image is there, images have alternative texts, nothing needs the network."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

for package in ("sphinx", "myst_nb", "furo"):
    pytest.importorskip(package)

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The links, images, scripts and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.images, self.loaded, self.anchors = [], [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors.add(found.get("id"))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif tag == "img":
            self.images.append(found)
        elif tag == "script" and "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("book")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "-b",
        "html",
        "-d",
        folder / "cache",
        "-c",
        ROOT / "docs" / "book",
    ]
    done = subprocess.run([*command, ROOT, folder / "html"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path: Page(path) for path in (folder / "html").rglob("*.html")}


def test_the_book_has_every_page(book):
    names = {path.name for path in book}
    assert "README.html" in names
    for source in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("docs/*.md")]:
        assert f"{source.stem}.html" in names


def test_links_lead_to_files_and_anchors(book):
    for path, page in book.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), (path.name, link)
            if parts.fragment and target in book:
                assert unquote(parts.fragment) in book[target].anchors, (path.name, link)


def test_images_are_there_and_have_alternative_texts(book):
    for path, page in book.items():
        for image in page.images:
            source = image["src"]
            assert source.startswith("data:") or (path.parent / unquote(source)).is_file(), (path.name, source[:80])
            assert len(image.get("alt", "")) >= 5, (path.name, source[:80])


def test_nothing_is_loaded_from_the_network(book):
    for path, page in book.items():
        loaded = [*page.loaded, *(image["src"] for image in page.images if not image["src"].startswith("data:"))]
        assert not [source for source in loaded if re.match(r"(https?:)?//", source)], path.name
