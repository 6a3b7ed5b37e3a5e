"""Files are written whole or not at all, and hashed the same from memory and disk."""

import hashlib

import pytest

from glowlib.errors import KitError
from glowlib.files import atomic_write, sha256, write_csv


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
