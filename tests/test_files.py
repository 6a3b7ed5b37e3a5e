"""Files are written whole or not at all, and hashed the same from memory and disk."""

import hashlib
import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from glowlib import files
from glowlib.errors import KitError
from glowlib.files import (
    atomic_write,
    data_folder,
    locked,
    remove_leftovers,
    sha256,
    user_path,
    write_csv,
)


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "a.txt"
    with atomic_write(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("first")
    assert path.read_text() == "first"

    def fail(error):
        with atomic_write(path) as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(KitError, match="No space left"):
        fail(OSError(28, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        fail(KeyboardInterrupt())
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot write .*table.csv") as caught:
        write_csv(tmp_path / "file" / "table.csv", ["a"], [{"a": 1}])
    assert "\n" not in str(caught.value)


def test_a_file_has_the_hash_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(b"abc") == sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, os.fsdecode(b"caf\xe9"), "new\nline", " "])
def test_any_name_can_be_written(name, tmp_path):
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("content")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_threads_do_not_share_a_temporary_file(tmp_path):
    with ExitStack() as stack:
        names = [stack.enter_context(atomic_write(tmp_path / "a"))]
        names[0].write_text("mine")

        def other():
            with atomic_write(tmp_path / "a") as temporary:
                names.append(temporary)
                temporary.write_text("other")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert names[0] != names[1]
        assert (tmp_path / "a").read_text() == "other"
    assert (tmp_path / "a").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_leftovers_of_dead_processes_are_removed_and_nothing_else(tmp_path, monkeypatch):
    left = []
    for name in ("a.png", "b.png"):
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("whole")
        temporary.write_text("half")  # as if the process had been killed while it wrote
        left.append(temporary.name)
    (tmp_path / "a.png.part").write_text("of an older version")
    (tmp_path / "film.part").write_text("of a browser")
    before = {p.name for p in tmp_path.iterdir()}
    remove_leftovers(tmp_path, {"a.png"})  # this process runs
    assert before - {p.name for p in tmp_path.iterdir()} == {"a.png.part"}
    monkeypatch.setattr(files.psutil, "pid_exists", lambda process: False)
    remove_leftovers(tmp_path, {"a.png"})
    assert before - {p.name for p in tmp_path.iterdir()} == {"a.png.part", left[0]}


def test_a_second_process_is_refused_while_the_first_works(tmp_path):
    path = tmp_path / "new" / "table.csv"
    program = "import sys, pathlib; from glowlib.files import locked\nwith locked(pathlib.Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", program, str(path)]
    with locked(path):
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "KitError: another process is writing" in refused.stderr
    assert subprocess.run(command).returncode == 0
    (tmp_path / "file").write_text("")
    with pytest.raises(KitError, match="cannot write"), locked(tmp_path / "file" / "table.csv"):
        pass


def test_a_path_may_begin_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a b") == tmp_path / "a b"
    assert user_path("~nobody-here/x") == Path("~nobody-here/x")
    monkeypatch.setenv("GLOWLIB_DATA", "~/data")
    assert data_folder() == tmp_path / "data"
