"""Sets are recognised by what they hold, refused when they are other copies, and fetched without surprises."""

import hashlib
import os
import shutil
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import requests
from PIL import Image
from skimage import data

from glowlib import KitError
from glowlib.data import datasets, download
from glowlib.data.datasets import fingerprints, load_dataset
from glowlib.data.image_files import write_png
from glowlib.files import DATA_VARIABLE, data_folder, locked

PICTURES = {f"{i:02d}.png": np.ascontiguousarray(data.astronaut()[40 * i : 40 * i + 24, :32]) for i in range(3)}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A known set "Tiny" of three pictures; the empty data folder."""
    known = {n: (*p.shape[:2], hashlib.sha256(p.tobytes()).hexdigest()) for n, p in PICTURES.items()}
    monkeypatch.setattr(datasets, "KNOWN", ("Tiny",))
    monkeypatch.setattr(datasets, "manifest", lambda name: known)
    monkeypatch.setitem(download.ADDRESSES, "Tiny", ["https://127.0.0.1:9/{stem}.png"])  # nobody answers there
    monkeypatch.setattr(download, "PAUSE", 0)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


def put(folder, pictures=PICTURES):
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in pictures.items():
        write_png(folder / name, picture)


@pytest.mark.parametrize("name", ["", ".", "..", "../data/mine", "a/b", "/etc"])
def test_a_set_is_named_by_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "data"))
    put(tmp_path / "data" / "mine")
    with pytest.raises(KitError, match="is no name of a folder"):
        load_dataset(name)


def test_a_folder_called_bundled_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    put(tmp_path / "bundled")
    with pytest.raises(KitError, match="rename the folder"):
        load_dataset("bundled")


def test_file_names_that_are_no_text_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    put(tmp_path / "mine", {os.fsdecode(b"b\xff.png"): PICTURES["00.png"]})
    assert [name for name, _ in load_dataset("mine")] == ["b\\udcff.png"]


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))


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
    with pytest.raises(KitError, match=r"00\.jpg is no image of Tiny"):
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
    with pytest.raises(KitError, match="holds 3 of 18 images of McMaster"):
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
    """Serves `content`; the first `drops` answers to each path break off half-way; lists the requests."""

    def __init__(self, content, drops=0, ranges=True):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.drops, self.ranges, self.requests = content, drops, ranges, []
        self.answers = {}  # path -> [(status, headers)] to give first
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        start = self.headers.get("Range")
        self.server.requests.append((self.path, start))
        body = self.server.content.get(self.path)
        if body is None:
            self.send_error(404)
            return
        first = int(start[6:-1]) if start and self.server.ranges else 0
        answers = self.server.answers.get(self.path)
        if answers:
            status, headers = answers.pop(0)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if first >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        broken = [path for path, _ in self.server.requests].count(self.path) <= self.server.drops
        self.wfile.write(body[first : (first + len(body)) // 2] if broken else body[first:])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve(monkeypatch):
    """Servers on this machine, which have no certificate; the pauses between attempts are noted, not waited for."""
    servers = []
    monkeypatch.setattr(download, "SCHEMES", ("http://127.0.0.1:",))
    waited = []
    monkeypatch.setattr(download.time, "sleep", waited.append)

    def start(*args, **options):
        servers.append(Server(*args, **options))
        servers[-1].waited = waited
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
    starts = [int(start[6:-1]) if start else 0 for _, start in server.requests]
    assert starts[0] == 0 < starts[1] < starts[2] < len(body)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_from_a_server_that_cannot_continue_all_is_requested_again(tmp_path, serve):
    body = np.random.default_rng(0).bytes(300_000)
    server = serve({"/file": body}, drops=1, ranges=False)
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body


def test_a_set_is_fetched_once_and_only_what_is_missing(tiny, content, serve, monkeypatch):
    server = serve(content, drops=1)
    monkeypatch.setitem(
        download.ADDRESSES, "Tiny", [f"{server.url}/nowhere/{{stem}}.png", f"{server.url}/{{stem}}.png"]
    )
    put(tiny / "Tiny", {"00.png": PICTURES["00.png"]})
    loaded = load_dataset("Tiny")
    assert all((picture == PICTURES[name]).all() for name, picture in loaded)
    assert visible(tiny / "Tiny") == list(PICTURES)
    assert not [path for path, _ in server.requests if "00" in path]
    before = len(server.requests)
    load_dataset("Tiny")
    assert len(server.requests) == before


@pytest.mark.parametrize("damage", ["byte", "picture", "gone"])
def test_wrong_bytes_and_missing_files_are_refused_and_said(tiny, content, serve, monkeypatch, damage):
    body = content["/01.png"]
    wrong = {"byte": body[:-30] + bytes([body[-30] ^ 1]) + body[-29:], "picture": content["/02.png"], "gone": None}
    server = serve(content | {"/01.png": wrong[damage]})
    monkeypatch.setitem(download.ADDRESSES, "Tiny", [f"{server.url}/{{stem}}.png"])
    with pytest.raises(KitError) as caught:
        load_dataset("Tiny")
    text = one_line(caught)
    assert ("cannot be fetched (01.png: HTTPError 404)" if damage == "gone" else "is not 01.png of Tiny") in text
    assert str(tiny / "Tiny") in text
    assert visible(tiny / "Tiny") == ["00.png", "02.png"]  # what else there is is kept, nothing half-written
    assert not list((tiny / "Tiny").glob(".*01*"))


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
    assert visible(tiny / "Packed") == ["01.png", "escaped.png"]
    assert not list(tmp_path.glob("*.png"))


def part_of(server, path):
    """What is left of an interrupted download of /file beside path."""
    return path.with_name(f"{path.name}.{hashlib.sha256(f'{server.url}/file'.encode()).hexdigest()[:8]}.part")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_tried_again_after_a_pause(status, tmp_path, serve):
    """What was fetched before is kept, whatever the server answers meanwhile."""
    body = np.random.default_rng(0).bytes(300_000)
    server = serve({"/file": body})
    part_of(server, tmp_path / "file").write_bytes(body[:100_000])
    server.answers["/file"] = [(status, {}), (status, {"Retry-After": "7"}), (status, {})]
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body
    assert [start for _, start in server.requests] == ["bytes=100000-"] * 4
    assert server.waited == [1, 7, 4]


def test_retry_after_may_be_a_date_and_has_a_limit(tmp_path, serve):
    server = serve({"/file": b"content"})
    server.answers["/file"] = [(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), (503, {"Retry-After": "7200"})]
    with pytest.raises(requests.HTTPError):
        download.download(f"{server.url}/file", tmp_path / "file")
    assert server.waited == [0]  # in the past; and nobody waits for two hours


def test_a_server_that_stays_busy_costs_nothing_that_was_fetched(tmp_path, serve):
    body = np.random.default_rng(0).bytes(300_000)
    server = serve({"/file": body})
    part_of(server, tmp_path / "file").write_bytes(body[:1000])
    server.answers["/file"] = [(503, {})] * download.ATTEMPTS
    with pytest.raises(requests.HTTPError):
        download.download(f"{server.url}/file", tmp_path / "file")
    assert part_of(server, tmp_path / "file").read_bytes() == body[:1000]
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_address_that_is_not_there_is_not_tried_again(status, tmp_path, serve):
    server = serve({"/file": b"content"})
    server.answers["/file"] = [(status, {})] * 3
    with pytest.raises(requests.HTTPError):
        download.download(f"{server.url}/file", tmp_path / "file")
    assert len(server.requests) == 1
    assert server.waited == []


@pytest.mark.parametrize("length", [7, 9])
def test_what_is_complete_or_too_long_already(length, tmp_path, serve):
    server = serve({"/file": b"content"})
    part_of(server, tmp_path / "file").write_bytes(b"content too long"[:length])
    download.download(f"{server.url}/file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_what_one_address_left_is_not_continued_from_another(tmp_path, serve):
    body = np.random.default_rng(0).bytes(1000)
    server = serve({"/file": body, "/other": body[::-1]})
    part_of(server, tmp_path / "file").write_bytes(body[:500])
    download.download(f"{server.url}/other", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == body[::-1]


def test_only_secure_addresses_are_fetched_redirects_too(tmp_path, serve, monkeypatch):
    server = serve({"/file": b"content", "/moved": b""})
    monkeypatch.setattr(download, "SCHEMES", ("https://",))
    with pytest.raises(KitError, match="no secure address"):
        download.download(f"{server.url}/file", tmp_path / "file")
    assert server.requests == []
    monkeypatch.setattr(download, "SCHEMES", (f"{server.url}/moved",))
    server.answers["/moved"] = [(302, {"Location": f"{server.url}/file"})]
    with pytest.raises(KitError, match="no secure address"):
        download.download(f"{server.url}/moved", tmp_path / "file")
    assert server.requests == [("/moved", None)]
    assert list(tmp_path.iterdir()) == []


def test_all_known_addresses_are_secure():
    addresses = [a for known in download.ADDRESSES.values() for a in known]
    assert {"Kodak24", "CBSD68", "BSD400", "Urban100"} <= set(datasets.KNOWN) & set(download.ADDRESSES)
    assert all(a.startswith("https://") for a in [*addresses, *(url for url, _ in download.ARCHIVES["DIV2K"])])
    assert len(datasets.manifest("Urban100")) == 100


def test_one_image_that_fails_does_not_lose_the_others(tiny, content, serve, monkeypatch):
    server = serve({path: body for path, body in content.items() if path != "/00.png"})
    monkeypatch.setitem(download.ADDRESSES, "Tiny", [f"{server.url}/{{stem}}.png"])
    with pytest.raises(KitError, match="00.png: HTTPError 404") as caught:
        load_dataset("Tiny")
    one_line(caught)
    assert visible(tiny / "Tiny") == ["01.png", "02.png"]
    server.content = content
    before = len(server.requests)
    assert len(load_dataset("Tiny")) == 3
    assert server.requests[before:] == [("/00.png", None)]


def test_two_processes_do_not_fetch_one_set(tiny, content, serve, monkeypatch):
    pytest.importorskip("fcntl")
    server = serve(content)
    monkeypatch.setitem(download.ADDRESSES, "Tiny", [f"{server.url}/{{stem}}.png"])
    (tiny / "Tiny").mkdir(parents=True)
    with locked(tiny / "Tiny"), pytest.raises(KitError, match="another process is writing"):
        load_dataset("Tiny")
    assert server.requests == []
    assert len(load_dataset("Tiny")) == 3


def test_an_archive_that_is_unpacked_is_not_fetched_again(tiny, content, serve, monkeypatch, tmp_path):
    archives = {}
    for number in ("00", "01"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
            packed.writestr(f"{number}.png", content[f"/{number}.png"])
        archives[f"/{number}.zip"] = (tmp_path / "a.zip").read_bytes()
    server = serve({"/00.zip": archives["/00.zip"]})
    known = [(f"{server.url}{path}", hashlib.sha256(body).hexdigest()) for path, body in archives.items()]
    monkeypatch.setitem(download.ARCHIVES, "Packed", known)
    with pytest.raises(KitError, match="Packed cannot be fetched"):
        download.fetch("Packed", tiny / "Packed", [], None)
    assert visible(tiny / "Packed") == ["00.png"]
    server.content = archives
    download.fetch("Packed", tiny / "Packed", [], None)
    assert [path for path, _ in server.requests] == ["/00.zip", "/01.zip", "/01.zip"]
    assert visible(tiny / "Packed") == ["00.png", "01.png"]
    (tiny / "Packed" / "00.png").unlink()  # but what is gone is
    download.fetch("Packed", tiny / "Packed", [], None)
    assert [path for path, _ in server.requests][3:] == ["/00.zip"]


def test_two_images_of_one_name_are_refused(tiny):
    put(tiny / "mine" / "2023")
    put(tiny / "mine" / "2024")
    with pytest.raises(KitError, match="2023/00.png and .*2024/00.png have one name") as caught:
        load_dataset("mine")
    one_line(caught)


@pytest.mark.parametrize("damage", ["cut", "link"])
def test_one_damaged_image_is_named(tiny, damage):
    put(tiny / "mine")
    path = tiny / "mine" / "01.png"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:200]) if damage == "cut" else path.symlink_to("nowhere.png")
    with pytest.raises(KitError, match="cannot read .*mine/01.png") as caught:
        load_dataset("mine")
    one_line(caught)


def test_what_is_no_image_of_a_set_is_passed_over(tiny):
    put(tiny / "mine")
    (tiny / "mine" / "._00.png").write_bytes(b"a Mac's metadata")
    (tiny / "mine" / "folder.png").mkdir()
    (tiny / "mine" / "notes.txt").write_text("text")
    assert [name for name, _ in load_dataset("mine")] == list(PICTURES)


@pytest.mark.parametrize(("name", "count"), [("Kodak24", 24), ("CBSD68", 68), ("BSD400", 400), ("Urban100", 100)])
def test_the_real_sets_are_the_ones_of_the_manifest(name, count):
    if not (data_folder() / name).is_dir():
        pytest.skip(f"{name} is not in the data folder")
    assert sum(1 for _ in datasets.iterate_dataset(name)) == count
