"""Sets are recognised by what they hold, refused when they are other copies, and fetched without surprises."""

import hashlib
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image
from skimage import data

from glowlib import KitError
from glowlib.data import datasets, download
from glowlib.data.datasets import fingerprints, load_dataset
from glowlib.data.image_files import write_png
from glowlib.files import DATA_VARIABLE, data_folder

PICTURES = {f"{i:02d}.png": np.ascontiguousarray(data.astronaut()[40 * i : 40 * i + 24, :32]) for i in range(3)}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A known set "Tiny" of three pictures; the empty data folder."""
    known = {n: (*p.shape[:2], hashlib.sha256(p.tobytes()).hexdigest()) for n, p in PICTURES.items()}
    monkeypatch.setattr(datasets, "KNOWN", ("Tiny",))
    monkeypatch.setattr(datasets, "manifest", lambda name: known)
    monkeypatch.setitem(download.HOMES, "Tiny", ["http://127.0.0.1:9/{stem}.png"])  # nobody answers there
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def put(folder, pictures=PICTURES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_png(folder / name, picture)


def one_line(caught):
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_bundled_photographs():
    pictures = dict(load_dataset("bundled"))
    assert list(pictures) == ["astronaut.png", "chelsea.png", "coffee.png", "motorcycle.png", "rocket.png"]
    assert all(p.ndim == 3 and p.dtype == np.uint8 for p in pictures.values())
    prints = fingerprints("bundled")
    assert prints["chelsea.png"] == hashlib.sha256(data.chelsea().tobytes()).hexdigest()
    assert len(set(prints.values())) == 5


def test_a_set_put_there_by_hand_needs_no_network(tiny):
    put(tiny / "Tiny")
    loaded = load_dataset("Tiny")
    assert [name for name, _ in loaded] == list(PICTURES)
    assert all((picture == PICTURES[name]).all() for name, picture in loaded)
    assert list(fingerprints("Tiny")) == list(PICTURES)


def test_other_names_are_recognised_by_the_pixels(tiny):
    put(tiny / "Tiny", {f"photo-{n}": p for n, p in PICTURES.items()})
    loaded = load_dataset("Tiny")
    assert [name for name, _ in loaded] == list(PICTURES)
    assert all((picture == PICTURES[name]).all() for name, picture in loaded)


def test_cropped_altered_and_jpeg_copies_are_refused(tiny):
    put(tiny / "Tiny", {n: p[:20, :20] for n, p in PICTURES.items()})
    with pytest.raises(KitError) as caught:
        load_dataset("Tiny")
    assert "20×20 pixels, not 32×24" in one_line(caught)
    put(tiny / "Tiny", {n: p ^ np.uint8(1) for n, p in PICTURES.items()})
    with pytest.raises(KitError, match="other pixels"):
        load_dataset("Tiny")
    shutil.rmtree(tiny / "Tiny")
    (tiny / "Tiny").mkdir()
    for name, picture in PICTURES.items():
        Image.fromarray(picture).save(tiny / "Tiny" / name.replace("png", "jpg"))
    with pytest.raises(KitError, match=r"00\.jpg is no picture of Tiny"):
        load_dataset("Tiny")


def test_without_a_network_one_line_says_what_to_do(tiny):
    with pytest.raises(KitError) as caught:
        load_dataset("Tiny")
    text = one_line(caught)
    assert "Tiny cannot be fetched" in text
    assert str(tiny / "Tiny") in text
    assert DATA_VARIABLE in text


def test_bring_your_own_says_so(tiny):
    put(tiny / "McMaster")
    with pytest.raises(KitError, match="holds 3 of 18 pictures of McMaster"):
        load_dataset("McMaster")
    put(tiny / "mine")
    assert [name for name, _ in load_dataset("mine")] == list(PICTURES)


def test_own_pictures_of_other_kinds_become_colour(tiny):
    picture = PICTURES[next(iter(PICTURES))]
    grey = picture[..., 0]
    kinds = {"alpha": np.dstack([picture, grey]), "deep": picture.astype(np.uint16) * 257, "grey": grey}
    kinds |= {"grey_alpha": np.dstack([grey, grey]), "grey_deep": grey.astype(np.uint16) * 257 + 100}
    put(tiny / "mine", {f"{name}.png": kind for name, kind in kinds.items()})
    for name, found in load_dataset("mine"):
        expected = np.dstack([grey] * 3) if "grey" in name else picture
        assert found.dtype == np.uint8
        assert np.array_equal(found, expected), name


class Server(ThreadingHTTPServer):
    """Serves `content`; the first `drops` answers to each path break off half-way; counts what was asked."""

    def __init__(self, content, drops=0, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.drops, self.ranges, self.asked = content, drops, ranges, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = self.headers.get("Range")
        self.server.asked.append((self.path, start))
        body = self.server.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        first = int(start[6:-1]) if start and self.server.ranges else 0
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        broken = [path for path, _ in self.server.asked].count(self.path) <= self.server.drops
        self.wfile.write(body[first : (first + len(body)) // 2] if broken else body[first:])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*args, **options):
        servers.append(Server(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    put(folder)
    return {f"/{n}": (folder / n).read_bytes() for n in PICTURES}


def test_a_dropped_line_is_resumed(tmp_path, serve):
    body = np.random.default_rng(0).bytes(300_000)
    server = serve({"/file": body}, drops=2)
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body
    starts = [int(start[6:-1]) if start else 0 for _, start in server.asked]
    assert starts[0] == 0 < starts[1] < starts[2] < len(body)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_server_that_cannot_continue_is_asked_from_the_start(tmp_path, serve):
    body = np.random.default_rng(0).bytes(300_000)
    server = serve({"/file": body}, drops=1, ranges=False)
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body


def test_a_set_is_fetched_once_and_only_what_is_missing(tiny, content, serve, monkeypatch):
    server = serve(content, drops=1)
    monkeypatch.setitem(download.HOMES, "Tiny", [f"{server.url}/nowhere/{{stem}}.png", f"{server.url}/{{stem}}.png"])
    put(tiny / "Tiny", {"00.png": PICTURES["00.png"]})
    loaded = load_dataset("Tiny")
    assert all((picture == PICTURES[name]).all() for name, picture in loaded)
    assert sorted(p.name for p in (tiny / "Tiny").iterdir()) == list(PICTURES)
    assert not [path for path, _ in server.asked if "00" in path]
    before = len(server.asked)
    load_dataset("Tiny")
    assert len(server.asked) == before


@pytest.mark.parametrize("damage", ["byte", "picture", "gone"])
def test_wrong_bytes_and_missing_files_are_refused_and_said(tiny, content, serve, monkeypatch, damage):
    body = content["/01.png"]
    wrong = {"byte": body[:-30] + bytes([body[-30] ^ 1]) + body[-29:], "picture": content["/02.png"], "gone": None}
    server = serve(content | {"/01.png": wrong[damage]})
    monkeypatch.setitem(download.HOMES, "Tiny", [f"{server.url}/{{stem}}.png"])
    with pytest.raises(KitError) as caught:
        load_dataset("Tiny")
    text = one_line(caught)
    assert ("cannot be fetched (HTTPError)" if damage == "gone" else "is not 01.png of Tiny") in text
    assert str(tiny / "Tiny") in text
    assert [p.name for p in (tiny / "Tiny").iterdir()] == ["00.png"]  # what came before is kept, nothing half-written


def test_an_archive_is_checked_and_cannot_write_elsewhere(tiny, content, serve, monkeypatch, tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("../../escaped.png", content["/00.png"])
        packed.writestr("set/01.png", content["/01.png"])
        packed.writestr("set/readme.txt", "text")
    server = serve({"/set.zip": path.read_bytes()})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(download.ARCHIVES, "Packed", [(f"{server.url}/set.zip", "0" * 64)])
    with pytest.raises(KitError, match="other bytes"):
        download.fetch("Packed", tiny / "Packed", [], None)
    monkeypatch.setitem(download.ARCHIVES, "Packed", [(f"{server.url}/set.zip", digest)])
    download.fetch("Packed", tiny / "Packed", [], None)
    assert sorted(p.name for p in (tiny / "Packed").iterdir()) == ["01.png", "escaped.png"]
    assert not list(tmp_path.glob("*.png"))


@pytest.mark.parametrize(("name", "count"), [("Kodak24", 24), ("CBSD68", 68)])
def test_the_real_sets_are_the_ones_the_manifest_means(name, count):
    if not (data_folder() / name).is_dir():
        pytest.skip(f"{name} is not in the data folder")
    assert len(load_dataset(name)) == count
