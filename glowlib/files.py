"""Files and folders: one atomic write, one hash, one lock, one place for each path."""

import csv
import hashlib
import os
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from .errors import KitError, printable

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

DATA_VARIABLE = "GLOWLIB_DATA"
CLONE = Path(__file__).parents[1]


def kit_folder() -> Path:
    """The clone's top folder, with notebooks/ and results/; the current folder where there is no clone."""
    return CLONE if (CLONE / "pyproject.toml").exists() else Path()


def user_path(text: str | Path) -> Path:
    """The path that a user gave, with ~ and ~name expanded; the type of every command's option that is a path."""
    return Path(os.path.expanduser(text))


def data_folder() -> Path:
    """The folder that holds the datasets: the value of GLOWLIB_DATA, else data/ in the kit's folder."""
    return user_path(os.environ.get(DATA_VARIABLE) or kit_folder() / "data")


def notebooks_run_folder(run_folder: str = "") -> Path:
    """The folder for what a notebook makes: `run_folder` where it is given, else results/runs/notebooks of the kit."""
    return user_path(run_folder) if run_folder else kit_folder() / "results" / "runs" / "notebooks"


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
def locked(path: Path, wait: float = 0.0, busy: str = "another process is writing {path}: wait until it has ended"):
    """`with locked(path):` this process alone works on path, a file or a folder, which need not exist yet.

    The lock is flock on a hidden file beside path, so it ends with the process, however that ends. Windows and some
    network file systems have no flock: nothing is locked there.

    Args:
        path: the file or folder.
        wait: seconds to wait for another process.
        busy: the message where another process holds the lock.

    Raises:
        KitError: another process holds the lock, or the folder cannot be written.
    """
    if fcntl is None:
        yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f"{temporary_prefix(path.name)}lock").open("w")
    except OSError as error:
        raise KitError(f"cannot write {printable(path)}: {error.strerror}") from error
    with file:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise KitError(busy.format(path=printable(path))) from None
                time.sleep(0.1)
                continue
            except OSError:  # a file system without locks
                pass
            break
        yield


def write_csv(path: Path, columns, rows) -> None:
    """Replace a table by these rows (dicts), see `atomic_write`."""
    with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
