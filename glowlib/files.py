"""Files and folders: one atomic write, one hash, one lock, one place for each path."""

import csv
import hashlib
import os
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import KitError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

DATA_VARIABLE = "GLOWLIB_DATA"
CLONE = Path(__file__).parents[1]


def data_folder() -> Path:
    """The folder that holds the datasets: the value of GLOWLIB_DATA, else data/ in the clone, or here without one."""
    return Path(os.environ.get(DATA_VARIABLE) or (CLONE if (CLONE / "pyproject.toml").exists() else Path()) / "data")


def shipped_folder() -> Path:
    """The folder of the shipped models: inside an installed wheel, or results/models of a clone."""
    inside = Path(__file__).with_name("shipped")
    return inside if inside.is_dir() else CLONE / "results" / "models"


def sha256(content: bytes | Path) -> str:
    """SHA-256, in hexadecimal digits, of bytes, or of the file at a Path."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content).hexdigest()


def printable(text) -> str:
    """A file name or message on one line: control characters and bytes that are no text become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def temporary_prefix(name: str) -> str:
    """What the names of all temporary files for a file begin with: short, however long its own name is."""
    return f".{sha256(os.fsencode(name))[:16]}."


@contextmanager
def atomic_write(path: Path):
    """`with atomic_write(path) as temporary:` write the file `temporary`; `path` is never half-written.

    temporary lies beside path, under a name that no other process or thread uses. It is flushed to disk and renamed to
    path when the block ends, and removed when the block raises. Raises KitError, one line, where it cannot be written.
    """
    temporary = path.with_name(f"{temporary_prefix(path.name)}{os.getpid()}.{threading.get_ident()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise KitError(f"cannot write {printable(path)}: {printable(error)}; the state before it is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: Path, names) -> None:
    """Remove what `atomic_write` of these names left in a folder when a process was killed, and "NAME.part"."""
    ours = {temporary_prefix(name) for name in names}
    for path in folder.glob("*.part"):
        prefix, _, rest = path.name[1:].partition(".")
        process = rest.split(".")[0]
        mine = f".{prefix}." in ours and process.isdecimal() and not psutil.pid_exists(int(process))
        if mine or path.name.removesuffix(".part") in names:
            with suppress(OSError):
                path.unlink()


@contextmanager
def exclusive(folder: Path):
    """`with exclusive(folder):` no other process that does the same works in the folder.

    Raises KitError, one line, where another one does. The lock ends with the process, however it ends; the file
    `.lock` stays.
    """
    if fcntl is None:
        yield
        return
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise KitError(f"cannot write in {printable(folder)}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise KitError(f"another process works in {printable(folder)}: wait until it has ended") from error
        except OSError:
            pass  # a file system without locks
        yield


def write_csv(path: Path, columns, rows) -> None:
    """Replace a table by these rows (dicts), see `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
