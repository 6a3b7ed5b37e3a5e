"""Files and folders: one atomic write, one hash, one place for each path."""

import csv
import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import KitError

DATA_VARIABLE = "GLOWLIB_DATA"
CLONE = Path(__file__).parents[1]


def data_folder():
    """The folder that holds the datasets: what GLOWLIB_DATA says, else data/ in the clone, or here without one."""
    return Path(os.environ.get(DATA_VARIABLE) or (CLONE if (CLONE / "pyproject.toml").exists() else Path()) / "data")


def shipped_folder():
    """Where the shipped models lie: inside an installed wheel, or in results/models of a clone."""
    inside = Path(__file__).with_name("shipped")
    return inside if inside.is_dir() else CLONE / "results" / "models"


def sha256(content):
    """SHA-256, in hexadecimal digits, of bytes, or of the file at a Path."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content).hexdigest()


@contextmanager
def atomic_write(path):
    """`with atomic_write(path) as temporary:` write the file `temporary`; `path` is never half-written.

    temporary lies beside path, under a name of this process's own. It is flushed to disk and renamed to path
    when the block ends, and removed when the block raises. Raises KitError, one line, where it cannot be written.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise KitError(f"cannot write {path}: {error}; the state before it is kept") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def locked(path):
    """`with locked(path):` this process alone works on path, a file or a folder, which need not exist yet.

    The lock is flock on a hidden file beside path, so it ends with the process, however that ends. Windows has no
    flock: nothing is locked there.

    Raises:
        KitError: another process holds the lock, or the folder cannot be written.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise KitError(f"cannot write {path}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise KitError(f"another process is writing {path}: wait until it has ended") from error
        yield


def write_csv(path, columns, rows):
    """Replace a table by these rows (dicts), see `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
