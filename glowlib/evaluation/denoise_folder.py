"""Restore every image of a folder: the command behind `python -m glowlib denoise` and demo_any_resolution.py.

Started by torchrun, it shares the images among the processes, each with its own GPU.
"""

import argparse
import hashlib
import math
import os
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..data.image_files import SUFFIXES, read_image, write_image
from ..device import own_device, rank, world
from ..errors import KitError, exit_clearly, printable
from ..files import remove_leftovers, sha256, user_path
from ..networks import require_known
from ..networks.pretrained import list_models, load_pretrained
from .tiling import automatic_tile, denoise, out_of_memory

KINDS = {"png": ".png", "tiff": ".tif", "jpeg": ".jpg"}  # --format and the suffix of its results
NAMED = 8  # files left out that the summary names
LONGEST_NAME = 255  # bytes, on every common file system


@dataclass
class Found:
    """What a folder holds: the images to restore, and the names of what is left out."""

    images: list = field(default_factory=list)
    others: list = field(default_factory=list)
    folders: list = field(default_factory=list)
    hidden: list = field(default_factory=list)

    def left_out(self) -> str:
        """One line, "" where nothing is left out."""
        parts = []
        for names, what in ((self.others, "other file"), (self.folders, "sub-folder"), (self.hidden, "dot file")):
            if names:
                some = ", ".join(printable(name) for name in names[:NAMED]) + (", …" if len(names) > NAMED else "")
                plural = "s" if len(names) > 1 else ""
                hint = "; --recursive includes them" if what == "sub-folder" else ""
                parts.append(f"{len(names)} {what}{plural} ({some}{hint})")
        return f"left out: {', '.join(parts)}" if parts else ""


def find_images(folder: Path, recursive: bool = False, results: Path | None = None) -> Found:
    """The PNG, JPEG, TIFF and WebP files of a folder by their suffix, sorted by name, and what is left out.

    recursive: those of its sub-folders, too. results: a folder that is passed over, where it lies inside.
    """
    if not folder.is_dir():
        raise KitError(f"there is no folder {printable(folder)}: give --input_dir the folder that holds your images")
    found, waiting = Found(), [folder]
    while waiting:
        try:
            entries = sorted(waiting.pop().iterdir())
        except OSError as error:
            raise KitError(f"cannot list {printable(error.filename)}: {error.strerror}") from error
        for path in entries:
            name = str(path.relative_to(folder))
            if path.is_dir():
                if results is None or not same_folder(path, results):
                    inside = recursive and not path.name.startswith(".") and not path.is_symlink()
                    (waiting if inside else found.folders).append(path if inside else name)
            elif path.name.startswith("."):
                found.hidden.append(name)
            elif path.suffix.lower() in SUFFIXES and (path.is_file() or path.is_symlink()):
                found.images.append(path)  # a link to nothing is an image that cannot be read
            else:
                found.others.append(name)
    if not found.images:
        reason = found.left_out()
        raise KitError(f"no PNG, JPEG, TIFF or WebP image in {printable(folder)}{f' ({reason})' if reason else ''}")
    return found


def same_folder(one: Path, other: Path) -> bool:
    """Whether both are the same folder, however they are spelt; False where one is not there."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def result_names(images, kind: str = "png") -> dict[Path, str]:
    """A file name for the result of each image of one folder.

    The image's stem with the suffix of `kind`, and with the old suffix where two would share it (a_jpg.png beside
    a.png); kind "same" keeps the names. Long names are cut to what a file system takes.
    """
    names, taken = {}, set()
    # Those that have the suffix already come first, so that they keep their names; compared without case, for file
    # systems that ignore it.
    for path in sorted(images, key=lambda p: (p.suffix.lower() != KINDS.get(kind), p.name)):
        suffix = KINDS.get(kind, path.suffix)
        name, count = fitted_name(path.stem, suffix), 1
        while name.lower() in taken:
            old = path.suffix[1:].lower()
            name = fitted_name(path.stem, f"_{old}{suffix}" if count == 1 else f"_{old}_{count}{suffix}")
            count += 1
        taken.add(name.lower())
        names[path] = name
    return names


def fitted_name(stem: str, end: str) -> str:
    while len(os.fsencode(stem + end)) > LONGEST_NAME:
        stem = stem[:-1]
    return stem + end


def targets(images, input_dir: Path, result_dir: Path, kind: str) -> dict[Path, Path]:
    """{image: file of its result}, each sub-folder's in a sub-folder of the same name."""
    found = {}
    for folder in sorted({path.parent for path in images}):
        names = result_names([path for path in images if path.parent == folder], kind)
        found |= {path: result_dir / folder.relative_to(input_dir) / name for path, name in names.items()}
    return found


def open_model(weights: str, network: str | None, device):
    model = load_pretrained(weights)
    if network not in (None, model.name):
        raise KitError(f"{weights} holds a {model.name}, not a {network}")
    return model.to(device)


def parse(argv):
    shipped = list_models().shipped
    prog = "python -m glowlib denoise" if Path(sys.argv[0]).name == "__main__.py" else None
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])

    parser.add_argument("--input_dir", type=user_path, required=True, help="folder of PNG, JPEG, TIFF or WebP images")
    parser.add_argument("--result_dir", type=user_path, required=True, help="folder for the restored images")
    parser.add_argument(
        "--weights",
        default="sglownet-small",
        help=f"a weights file, this kit's or the original's, or a shipped model ({', '.join(shipped)})",
    )
    parser.add_argument("--model", help=f"network the weights should be of: {', '.join(list_models().networks)}")
    parser.add_argument("--sigma", type=float, help="noise level, 0 to 255 scale, in place of the estimate")
    parser.add_argument("--strength", type=float, default=1.0, help="multiplies the noise level: above 1 removes more")
    parser.add_argument("--ensemble", type=int, choices=(1, 8), default=1, help="8: mean over flips and turns, slower")
    parser.add_argument("--format", choices=(*KINDS, "same"), default="png", help='"same" keeps each image\'s own')
    parser.add_argument("--recursive", action="store_true", help="images of sub-folders, too")
    parser.add_argument(
        "--skip_existing",
        action="store_true",
        help="leave every result that is there; without it, those that the same command made of the same image",
    )
    parser.add_argument("--stride", type=int, help="pixels from tile to tile, by default 7/8 of the tile")
    parser.add_argument("--tile", default="auto", help='tile side in pixels, "auto" or "none" for whole images')
    parser.add_argument("--batch_size", type=int, help="tiles at once")
    parser.add_argument("--max_pixels", type=int, help="largest image that is read; by default what the memory holds")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    return parser.parse_args(argv)


def read_tile(text: str, stride: int | None, model):
    """(tile, overlap) for `denoise`, from --tile and --stride."""
    if text == "none":
        if stride is not None:
            raise KitError("--stride has no meaning with --tile none: leave one out")
        return None, None
    if text != "auto" and not (text.isascii() and text.isdecimal() and int(text) >= 16):
        raise KitError(f'--tile is a number of pixels of at least 16, "auto" or "none", not {text!r}')
    tile = automatic_tile(model.config) if text == "auto" else int(text)
    if stride is not None and not 1 <= stride <= tile:
        raise KitError(
            f"--stride is from 1 to the tile's side, {tile}, not {stride}: pixels between tiles would be lost"
        )
    return ("auto", None) if text == "auto" and stride is None else (tile, None if stride is None else tile - stride)


def check_options(args) -> None:
    """Refuse what no image could be restored with, before the model is loaded."""
    if args.model is not None:
        require_known("network", args.model, list_models().networks)
    for name in ("batch_size", "max_pixels"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise KitError(f"--{name} is a number of at least 1, not {getattr(args, name)}")
    for name in ("sigma", "strength"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise KitError(f"--{name} is a number above 0, not {value}")


def model_digest(model) -> str:
    """SHA-256 of a network's options and weights."""
    digest = hashlib.sha256(repr(model.config).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def restore_file(model, source: Path, target: Path, kind: str, options: dict, max_pixels: int | None, recipe: str):
    """Restore one file; returns lines to print about it, None where its result is there already."""
    note = f"glowlib {sha256(recipe.encode() + source.read_bytes())[:32]}"
    with suppress(OSError, KitError):
        if note.encode() in target.read_bytes():
            read_image(target, max_pixels)  # a damaged result is made again
            return None
    image = read_image(source, max_pixels)
    restored = denoise(model, image.pixels, **options)
    target.parent.mkdir(parents=True, exist_ok=True)
    known = {"icc_profile": image.icc_profile, "dpi": image.dpi, "colour_chunks": image.colour_chunks}
    write_image(target, restored, image.format if kind == "same" else kind, note=note, **known)
    return [f"it holds {image.frames} images: the first is restored"] if image.frames > 1 else []


def reason(error: Exception) -> str:
    """One line about any error."""
    if out_of_memory(error):
        return "there is not enough memory for this image: choose a smaller --tile, or --batch_size 1"
    text = str(error) or "no reason is given"
    return printable(
        text.splitlines()[0] if isinstance(error, KitError | OSError) else f"{type(error).__name__}: {text}"
    )


@exit_clearly
def main(argv=None):
    """Restore a folder. Exit status 0 when all images are restored, 2 when one is not, 130 when interrupted."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    args = parse(argv)
    check_options(args)
    if same_folder(args.result_dir, args.input_dir):
        raise KitError("--result_dir is the input folder: give another one, so that no image is overwritten")
    found = find_images(args.input_dir, args.recursive, args.result_dir)
    goals = targets(found.images, args.input_dir, args.result_dir, args.format)
    device = own_device(args.device)
    model = open_model(args.weights, args.model, device).eval()
    if (args.sigma is not None or args.strength != 1) and not model.config.noise_normalisation:
        raise KitError(f"{args.weights} has no noise normalisation, so it takes neither --sigma nor --strength")
    tile, overlap = read_tile(args.tile, args.stride, model)
    options = {"sigma": args.sigma, "strength": args.strength, "ensemble": args.ensemble}
    options |= {"tile": tile, "overlap": overlap}
    recipe = repr((model_digest(model), args.format, options))  # what a result depends on, beside its image
    options["batch_size"] = args.batch_size
    try:
        args.result_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot write in {printable(args.result_dir)}: {error.strerror}") from error
    for folder in {goal.parent for goal in goals.values()}:
        remove_leftovers(folder, {goal.name for goal in goals.values() if goal.parent == folder})
    shared = world() > 1 and "RANK" in os.environ
    mine = sorted(goals)[rank() :: world()] if shared else sorted(goals)
    restore_all(args, mine, goals, model, options, recipe, found, f"process {rank()} of {world()}" if shared else None)


def restore_all(args, mine, goals, model, options, recipe, found: Found, process: str | None) -> None:
    """Restore these images, name those that fail, print the summary."""
    began, counts, failed, interrupted = time.monotonic(), Counter(), [], False
    bar = tqdm(mine, unit="image", position=rank() if process else None, desc=process)
    try:
        for path in bar:
            name = printable(path.relative_to(args.input_dir))
            try:
                if args.skip_existing and goals[path].exists():
                    lines = None
                else:
                    lines = restore_file(model, path, goals[path], args.format, options, args.max_pixels, recipe)
                counts["there" if lines is None else "restored"] += 1
                for line in lines or ():
                    tqdm.write(f"note: {name}: {line}", file=sys.stderr)
            except Exception as error:  # one image never stops the others
                failed.append(name)
                tqdm.write(f"error: {name}: {reason(error)}", file=sys.stderr)
                if out_of_memory(error) and torch.cuda.is_available():
                    torch.cuda.empty_cache()
    except KeyboardInterrupt:
        interrupted = True
    bar.close()
    done = counts["restored"] + counts["there"]
    there = f", {counts['there']} of them there already" if counts["there"] else ""
    where = printable(args.result_dir) + (f", {process}" if process else "")
    print(f"{done} of {len(mine)} images restored in {where}{there} ({time.monotonic() - began:.0f} s)")
    if found.left_out() and not (process and rank()):
        print(found.left_out())
    if interrupted:
        print("error: interrupted; the same command continues with the images that are left", file=sys.stderr)
        sys.exit(130)
    if failed:
        raise KitError(f"not restored: {', '.join(failed)}")
