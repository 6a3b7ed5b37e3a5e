"""Data sets from their public addresses: resumed where the connection broke, checked, never half-written."""

import email.utils
import shutil
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import requests
from tqdm.auto import tqdm

from ..errors import KitError, printable
from ..files import DATA_VARIABLE, atomic_write, locked, sha256

RAW = "https://raw.githubusercontent.com"
# For each set the addresses of an image, tried in turn; {stem} is its canonical name without suffix, {number} Kodak's.
ADDRESSES = {
    "Kodak24": [
        f"{RAW}/MohamedBakrAli/Kodak-Lossless-True-Color-Image-Suite/HEAD/PhotoCD_PCD0992/{{number}}.png",
        "https://r0k.us/graphics/kodak/kodak/{stem}.png",
    ],
    "CBSD68": [f"{RAW}/clausmichele/CBSD68-dataset/HEAD/CBSD68/original_png/{{stem}}.png"],
    # An image is in one of the two splits.
    "BSD400": [f"{RAW}/BIDS/BSDS500/HEAD/BSDS500/data/images/{split}/{{stem}}.jpg" for split in ("train", "test")],
    "Urban100": [f"{RAW}/majedelhelou/denoising_datasets/HEAD/CUrban100/{{stem}}.png"],
}
# Archives with the checksums that TensorFlow Datasets publishes; images 0001 to 0800, and 0801 to 0900.
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
SCHEMES = ("https://",)  # what is fetched from, after redirects, too
ATTEMPTS = 6
PAUSE = 1.0  # seconds before the second attempt, twice as long before each one after it
LONGEST_PAUSE = 120.0  # a server that wants a longer one is left alone
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server answers for a while


class Session(requests.Session):
    """Requests over HTTPS alone: every request of a redirect passes here."""

    def get_adapter(self, url):
        if not url.startswith(SCHEMES):
            raise KitError(f"{printable(url)} is no secure address (https): nothing is fetched from there")
        return super().get_adapter(url)


def pause(attempt: int, answer: requests.Response | None) -> float:
    """Seconds to wait before the next attempt: what the server names in Retry-After, else longer each time."""
    wanted = None if answer is None else answer.headers.get("Retry-After")
    if wanted:
        with suppress(ValueError, TypeError):
            return float(wanted)
        with suppress(ValueError, TypeError):
            return max(0.0, email.utils.parsedate_to_datetime(wanted).timestamp() - time.time())
    return PAUSE * 2**attempt


def download(url: str, path: Path, progress: bool = False) -> None:
    """Fetch url into path.

    What a broken connection left in a file beside path is continued, now or by the next call. A server that is busy,
    or a line that breaks, is tried ATTEMPTS times, with pauses.
    Raises requests' exceptions: for an address that is not there at once, else after the last attempt.
    """
    part = path.with_name(f"{path.name}.{sha256(url.encode())[:8]}.part")  # of this address alone
    with Session() as session:
        for attempt in range(ATTEMPTS):
            answer = None
            try:
                start = part.stat().st_size if part.exists() else 0
                headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
                with session.get(url, headers=headers, stream=True, timeout=30) as answer:
                    if answer.status_code == 416 and answer.headers.get("Content-Range") != f"bytes */{start}":
                        part.unlink()  # not what the file on the server begins with
                        continue
                    if answer.status_code != 416:  # else nothing is left to fetch
                        answer.raise_for_status()
                        receive(answer, part, start, path.name if progress else None)
                part.replace(path)
                return
            except requests.RequestException as error:
                passing = answer is None or answer.ok or answer.status_code in PASSING
                seconds = pause(attempt, answer)
                if not passing or attempt == ATTEMPTS - 1 or seconds > LONGEST_PAUSE:
                    raise
                tqdm.write(f"{type(error).__name__} of {url}: tried again in {seconds:.0f} s")
                time.sleep(seconds)
    raise requests.ConnectionError(f"{url} is not continued")


def receive(answer: requests.Response, part: Path, start: int, title: str | None) -> None:
    """Append an answer to what is there, or begin again where the server does not continue at `start`."""
    if answer.status_code != 206 or not answer.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
        if answer.status_code == 206:  # another part than was wanted
            part.unlink()
            raise requests.ConnectionError("the server continued at another place")
        start = 0
    size = start + int(answer.headers.get("Content-Length", 0))
    amount = {"total": size or None, "initial": start, "unit": "B", "unit_scale": True}
    with part.open("ab" if start else "wb") as file, tqdm(desc=title, disable=title is None, **amount) as bar:
        for block in answer.iter_content(1 << 15):
            file.write(block)
            bar.update(len(block))


def by_hand(name: str, folder: Path) -> str:
    addresses = ADDRESSES.get(name) or [url for url, _ in ARCHIVES[name]]
    return f"put its images into {printable(folder)} by hand (from {addresses[0]}), or set {DATA_VARIABLE}"


def fetch_image(name: str, file: str, folder: Path, check) -> None:
    """One image of a known set, checked before it takes its name."""
    stem = Path(file).stem
    target = folder / file
    fresh = target.with_name(f".checking-{file}")  # the suffix is that of the image
    for address in ADDRESSES[name]:
        url = address.format(stem=stem, number=stem.removeprefix("kodim"))
        try:
            download(url, fresh)
        except requests.HTTPError as error:
            if error.response.status_code == 404 and address != ADDRESSES[name][-1]:
                continue
            raise
        try:
            check(name, file, fresh)
        except KitError as error:
            fresh.unlink()
            raise KitError(f"what {url} serves is not {file} of {name}: {by_hand(name, folder)}") from error
        fresh.replace(target)
        return


def unpack(archive: Path, folder: Path) -> list[str]:
    """The images of a zip archive, into one flat folder; no path in it can lead elsewhere. Returns their names."""
    names = []
    with zipfile.ZipFile(archive) as packed:
        for entry in packed.infolist():
            file = Path(entry.filename).name
            if entry.is_dir() or not file.lower().endswith(".png"):
                continue
            with packed.open(entry) as source, atomic_write(folder / file) as temporary, temporary.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            names.append(file)
    return names


def fetch_archive(url: str, digest: str, folder: Path) -> None:
    """An archive, checked and unpacked; one whose images are all there is not fetched again."""
    archive = folder / url.rsplit("/", 1)[1]
    unpacked = folder / f".unpacked-{digest[:16]}.txt"  # the names of its images
    if unpacked.exists() and all((folder / file).exists() for file in unpacked.read_text("utf-8").splitlines()):
        return
    if not archive.exists():
        download(url, archive, progress=True)
    if sha256(archive) != digest:
        archive.unlink()
        raise KitError(f"{url} came with other bytes than its checksum says: fetch it again")
    names = unpack(archive, folder)
    with atomic_write(unpacked) as temporary:
        temporary.write_text("".join(f"{file}\n" for file in names), "utf-8")
    archive.unlink()


def fetch(name: str, folder: Path, files, check) -> None:
    """Fetch a set into its folder; call again to continue.

    Args:
        files: names of the images to fetch; a set that comes as archives is fetched whole. check(name, file, path):
            raises KitError where the image at path is not that file of the set.
    Raises:
        KitError: one line that says what to do by hand, when the network or a check fails, or another process fetches
            into the folder. Everything that could be fetched is there.
    """
    failed = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            for url, digest in ARCHIVES.get(name, []):
                fetch_archive(url, digest, folder)
            for file in [] if name in ARCHIVES else tqdm(files, desc=f"fetching {name}", unit="image"):
                if (folder / file).exists():  # by another process, meanwhile
                    continue
                try:
                    fetch_image(name, file, folder, check)
                except requests.HTTPError as error:  # of this image; a network that is gone ends it all
                    failed.append(f"{name} cannot be fetched ({file}: HTTPError {error.response.status_code})")
                except KitError as error:
                    failed.append(str(error))
    except requests.RequestException as error:
        raise KitError(f"{name} cannot be fetched ({type(error).__name__}): {by_hand(name, folder)}") from error
    except OSError as error:
        raise KitError(f"cannot write {name} into {printable(folder)}: {error.strerror or error}") from error
    if failed:
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        hint = "" if "by hand" in failed[0] else f": {by_hand(name, folder)}"
        raise KitError(failed[0] + others + hint)
