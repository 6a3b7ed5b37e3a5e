"""Datasets from their public homes: resumable, checked, never half-written."""

import shutil
import zipfile
from pathlib import Path

import requests
from tqdm.auto import tqdm

from ..errors import KitError
from ..files import DATA_VARIABLE, atomic_write, sha256

RAW = "https://raw.githubusercontent.com"
# For each set the places of a picture, tried in turn; {stem} is its canonical name without suffix, {number} of Kodak's.
HOMES = {
    "Kodak24": [
        f"{RAW}/MohamedBakrAli/Kodak-Lossless-True-Color-Image-Suite/HEAD/PhotoCD_PCD0992/{{number}}.png",
        "https://r0k.us/graphics/kodak/kodak/{stem}.png",
    ],
    "CBSD68": [f"{RAW}/clausmichele/CBSD68-dataset/HEAD/CBSD68/original_png/{{stem}}.png"],
    # Which of the two splits a picture is in is found by asking.
    "BSD400": [f"{RAW}/BIDS/BSDS500/HEAD/BSDS500/data/images/{split}/{{stem}}.jpg" for split in ("train", "test")],
}
# Archives with the checksums that TensorFlow Datasets publishes; pictures 0001 to 0800, and 0801 to 0900.
ARCHIVES = {
    "DIV2K": [
        (
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip",
            "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335",
        ),
        (
            "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip",
            "20dd31fd84d777bc1cf5d6b7654a3f569c0aec74458ae094122ad1d0489900fc",
        ),
    ]
}
ATTEMPTS = 5


def download(url, path, progress=False):
    """Fetch url into path; what a broken connection left in path.part is continued, now or by the next call.

    Raises requests' exceptions: for an address that is not there at once, for a broken line after ATTEMPTS.
    """
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        start = part.stat().st_size if part.exists() else 0
        try:
            headers = {"Range": f"bytes={start}-"} if start else {}
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
                if answer.status_code != 416:  # nothing is left to fetch
                    answer.raise_for_status()
                    if answer.status_code != 206:  # the server cannot continue: begin again
                        start = 0
                    size = start + int(answer.headers.get("Content-Length", 0))
                    amount = {"total": size, "initial": start, "unit": "B", "unit_scale": True}
                    bar = tqdm(desc=path.name, disable=not progress, **amount)
                    with part.open("ab" if start else "wb") as file, bar:
                        for block in answer.iter_content(1 << 15):
                            file.write(block)
                            bar.update(len(block))
            part.replace(path)
            return
        except requests.HTTPError:
            part.unlink(missing_ok=True)
            raise
        except requests.RequestException:
            if attempt == ATTEMPTS - 1:
                raise


def by_hand(name, folder):
    homes = HOMES.get(name) or [url for url, _ in ARCHIVES[name]]
    return f"put its pictures into {folder} by hand (from {homes[0]}), or set {DATA_VARIABLE}"


def fetch_picture(name, file, folder, check):
    """One picture of a known set, checked before it takes its name."""
    stem = Path(file).stem
    target = folder / file
    fresh = target.with_name(f"fetched-{file}.new")
    for home in HOMES[name]:
        url = home.format(stem=stem, number=stem.removeprefix("kodim"))
        try:
            download(url, fresh)
        except requests.HTTPError as error:
            if error.response.status_code == 404 and home != HOMES[name][-1]:
                continue
            raise
        whole = target.with_name(f".checking-{file}")  # the suffix says how to decode it
        fresh.replace(whole)
        try:
            check(name, file, whole)
        except KitError as error:
            whole.unlink()
            raise KitError(f"what {url} serves is not {file} of {name}: {by_hand(name, folder)}") from error
        whole.replace(target)
        return


def unpack(archive, folder):
    """The pictures of a zip archive, into one flat folder; no path in it can lead elsewhere."""
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            file = Path(entry.filename).name
            if entry.is_dir() or not file.lower().endswith(".png"):
                continue
            with packed.open(entry) as source, atomic_write(folder / file) as temporary, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink)


def fetch(name, folder, files, check):
    """Fetch a set into its folder; call again to continue.

    files: names of the pictures to fetch; a set that comes as archives is fetched whole. check(name, file, path):
    raises KitError where the picture at path is not that file of the set.
    Raises KitError, one line that says what to do by hand, when the network or a check fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if name in ARCHIVES:
            for url, digest in ARCHIVES[name]:
                archive = folder / url.rsplit("/", 1)[1]
                if not archive.exists():
                    download(url, archive, progress=True)
                if sha256(archive) != digest:
                    archive.unlink()
                    raise KitError(f"{url} came with other bytes than its checksum says: fetch it again")
                unpack(archive, folder)
                archive.unlink()
            return
        for file in tqdm(files, desc=f"fetching {name}", unit="picture"):
            fetch_picture(name, file, folder, check)
    except requests.RequestException as error:
        raise KitError(f"{name} cannot be fetched ({type(error).__name__}): {by_hand(name, folder)}") from error
    except OSError as error:
        raise KitError(f"cannot write {name} into {folder}: {error.strerror or error}") from error
