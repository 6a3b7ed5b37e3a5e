"""Commands that are killed, run twice at once, or find no place to write: nothing is lost, and the end is right."""

import csv
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from nano import HINTS, OPTIONS, row, save_nano
from skimage import data

from glowlib.data.image_files import write_png
from glowlib.files import DATA_VARIABLE

CLONE = Path(__file__).parents[2]
DOWNLOAD = """
import sys
from pathlib import Path
from glowlib.data import download
from glowlib.errors import exit_clearly
download.SCHEMES, download.ADDRESSES["Tiny"] = ("http://127.0.0.1:",), [sys.argv[1]]
exit_clearly(download.fetch)("Tiny", Path(sys.argv[2]), ["file.bin"], lambda *_: None)
"""


class SlowServer(ThreadingHTTPServer):
    """Serves one file on this machine in a second or so, from any byte on."""

    body = random.Random(0).randbytes(2_000_000)

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        start, end = int(wanted[6:-1]) if wanted else 0, len(self.server.body)
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        try:
            for at in range(start, end, 100_000):
                self.wfile.write(self.server.body[at : at + 100_000])
                time.sleep(0.05)
        except OSError:
            pass  # the client was killed

    def log_message(self, *args):
        pass


class Workshop:
    """A folder with six pictures, weights and profiles of the nano network, and the commands that use them.

    Each command is a function of the name of the folder that it writes.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "data" / "tiny").mkdir(parents=True)
        (folder / "pictures").mkdir()
        for i in range(6):
            picture = (data.astronaut, data.chelsea, data.coffee)[i % 3]()[40 * i :][:64, 100:164]
            for where in ("data/tiny", "pictures"):
                write_png(folder / where / f"{i}.png", picture)
        save_nano(folder / "nano.safetensors")
        recipe = {"data": "tiny", "hold_out": 2, "steps": 60, "batch_size": 2, "crop": 32, "lr": 1e-3}
        recipe |= {"precision": "float32", "validate_every": 20, "checkpoint_every": 2}
        models = {"nano": {"network": "sunet", **OPTIONS, **HINTS}}
        scored = {"datasets": ["tiny"], "sigmas": [25], "methods": ["noisy", "wavelet", "gcunet-small"]}
        profile = {"training": recipe, "models": models, **scored, "notebooks": ["06_benchmark"]}
        (folder / "nano.yaml").write_text(yaml.safe_dump(profile))
        kept = shutil.ignore_patterns(".venv", ".git", "runs", "dist", "__pycache__", "exported")
        shutil.copytree(CLONE, folder / "clone", ignore=kept)
        self.server = SlowServer()

    def training(self, name: str) -> list:
        profile = self.folder / "nano.yaml"
        command = ["-m", "glowlib.training", "--profile", profile, "--model", "nano", "--device", "cpu"]
        return [*command, "--out", self.folder / name]

    def denoising(self, name: str) -> list:
        return [
            *["-m", "glowlib", "denoise", "--input_dir", self.folder / "pictures"],
            *["--result_dir", self.folder / name, "--weights", self.folder / "nano.safetensors", "--device", "cpu"],
        ]

    def benchmark(self, name: str) -> list:
        output = self.folder / name / "scores.csv"
        output.parent.mkdir(exist_ok=True)
        profile = self.folder / "nano.yaml"
        return ["-m", "glowlib", "benchmark", "--profile", profile, "--output", output, "--device", "cpu"]

    def download(self, name: str) -> list:
        address = f"http://127.0.0.1:{self.server.server_port}/file.bin"
        return ["-c", DOWNLOAD, address, self.folder / name]

    def reproduction(self, name: str) -> list:
        """In a profile, and so a folder, of its own; the first makes the reference of the others."""
        clone, profile = self.folder / "clone", self.folder / f"{name}.yaml"
        shutil.copy(self.folder / "nano.yaml", profile)
        made = clone / "results" / "reference"
        command = ["-m", "glowlib", "reproduce", "--profile", profile]
        if name.startswith("whole"):
            return [*command, "--write-reference", "--sample", "1"]
        first = next(path for path in made.iterdir() if path.name.startswith("whole"))
        shutil.copytree(first, made / name, dirs_exist_ok=True)
        return command

    def start(self, command: list, inside: list = ()) -> subprocess.Popen:
        """The command as a process, inside another one where that is given."""
        environment = os.environ | {DATA_VARIABLE: str(self.folder / "data"), "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": str(self.folder / "clone")}
        kept = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.folder / "clone"}
        return subprocess.Popen([*map(str, [*inside, sys.executable, *command])], env=environment, **kept)

    def results(self, name: str) -> dict[str, object]:
        """What a command leaves, without logs, times and states of the optimiser; and every temporary file."""
        found = {}
        for path in (path for path in (self.folder / name).rglob("*") if path.is_file()):
            if path.suffix in (".png", ".safetensors", ".bin") or path.name.startswith(".tmp"):
                found[path.name] = path.read_bytes()
            elif path.name == "scores.csv":
                with path.open() as table:
                    found[path.name] = [{**line, "seconds": ""} for line in csv.DictReader(table)]
        return found


def clean(name: str) -> str:
    """A name that a profile may have, too."""
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def in_turn(trial, count: int) -> list:
    """The results of trial(0), trial(1), ...; two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(trial, range(count)))


def try_kills(shop: Workshop, what: str, command, count: int) -> dict:
    """Kill a command at random moments, each time in a new folder; started again, it has to end with the same files."""
    begun = time.monotonic()
    whole = shop.start(command(clean(f"whole {what}")))
    _, errors = whole.communicate()
    if whole.returncode:
        raise RuntimeError(f"{what} fails by itself: {errors}")
    duration = time.monotonic() - begun

    def trial(number: int) -> bool:
        name, draw = clean(f"{what} killed {number}"), random.Random(number)
        process = shop.start(command(name))
        time.sleep(draw.uniform(0.2, 0.95) * duration)
        process.kill()
        process.communicate()
        again = shop.start(command(name))
        _, errors = again.communicate()
        same = shop.results(name) == shop.results(clean(f"whole {what}"))
        if again.returncode or not same:
            print(f"{what}, kill {number}: status {again.returncode}, same files: {same}\n{errors}", file=sys.stderr)
        return again.returncode == 0 and same

    return row(f"kills of {what}", count, sum(in_turn(trial, count)))


def try_pairs(shop: Workshop, what: str, command, count: int) -> dict:
    """Start a command twice at once in one folder: both end well, or one is refused in one line; same files."""

    def trial(number: int) -> str:
        name = clean(f"{what} pair {number}")
        pair = [shop.start(command(name)) for _ in range(2)]
        errors = [process.communicate()[1] for process in pair]
        status = sorted(process.returncode for process in pair)
        same = shop.results(name) == shop.results(clean(f"whole {what}"))
        if same and status in ([0, 0], [0, 2]):
            return "right" if status == [0, 0] else "refused"
        print(f"{what}, pair {number}: status {status}, same files: {same}, {errors}", file=sys.stderr)
        return "escaped"

    ends = in_turn(trial, count)
    return row(f"pairs of {what}", count, ends.count("right"), ends.count("refused"))


def try_places(shop: Workshop, commands: dict) -> list[dict]:
    """Each command in a full and in a read-only file system: status 2, or 1 for a folder, one line, no traceback."""
    rows = []
    for what, options in (("full disk", "size=4k"), ("read-only file system", "ro")):
        refused, script = 0, f'mount -t tmpfs -o {options} tmpfs "$1" && shift && exec "$@"'
        for name, command in commands.items():
            place = shop.folder / clean(f"{what} {name}")
            place.mkdir()
            arguments = command(place.name)
            process = shop.start(arguments, ["unshare", "--mount", "sh", "-c", script, "sh", place])
            _, errors = process.communicate()
            if "unshare" in errors or "mount:" in errors:
                return [row("full and read-only file systems", 0, 0, note="not tried: needs root to mount them")]
            fine = process.returncode in (1, 2) and "Traceback" not in errors
            refused += fine
            if not fine:
                print(f"{what}, {name}: status {process.returncode}: {errors}", file=sys.stderr)
        rows.append(row(what, len(commands), 0, refused))
    return rows
