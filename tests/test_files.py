"""Files are written whole or not at all, and hashed the same from memory and disk."""

import hashlib
import subprocess
import sys

import pytest

from glowlib.errors import KitError
from glowlib.files import atomic_write, locked, sha256, write_csv


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
