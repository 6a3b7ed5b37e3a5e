"""A folder of pictures in, a folder of restored pictures out: the command behind demo_any_resolution.py.

Started by torchrun, it shares the pictures among the processes, each with its own GPU.
"""

import argparse
import sys
from pathlib import Path

import torch
from tqdm.auto import tqdm

from ..data.image_files import SUFFIXES, read_picture, write_png
from ..device import own_device, rank, world
from ..errors import KitError, exit_clearly
from ..networks import require_known
from ..networks.pretrained import list_models, load_pretrained
from .tiling import automatic_tile, denoise


def find_pictures(folder):
    """The folder's PNG, JPEG, TIFF and WebP files, sorted by name."""
    if not folder.is_dir():
        raise KitError(f"there is no folder {folder}: give --input_dir the folder that holds your pictures")
    pictures = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in SUFFIXES)
    if not pictures:
        raise KitError(f"no PNG, JPEG, TIFF or WebP picture in {folder}")
    return pictures


def result_names(pictures):
    """A PNG name for each picture: its stem, with the old suffix where two would share it (a_jpg.png beside a.png)."""
    names, taken = {}, set()
    # PNG files first, so that they keep their names; compared without case, for file systems that ignore it.
    for path in sorted(pictures, key=lambda p: (p.suffix.lower() != ".png", p.name)):
        name, count = path.stem, 1
        while name.lower() in taken:
            suffix = path.suffix[1:].lower()
            name = f"{path.stem}_{suffix}" if count == 1 else f"{path.stem}_{suffix}_{count}"
            count += 1
        taken.add(name.lower())
        names[path] = name + ".png"
    return names


def open_model(weights, network, device):
    model = load_pretrained(weights)
    if network not in (None, model.name):
        raise KitError(f"{weights} holds a {model.name}, not a {network}")
    return model.to(device)


def parse(argv):
    shipped = list_models().shipped
    prog = "python -m glowlib denoise" if Path(sys.argv[0]).name == "__main__.py" else None
    parser = argparse.ArgumentParser(prog=prog, description=__doc__.splitlines()[0])
    parser.add_argument("--input_dir", type=Path, required=True, help="folder of PNG, JPEG, TIFF or WebP pictures")
    parser.add_argument("--result_dir", type=Path, required=True, help="folder for the restored pictures, as PNG")
    parser.add_argument(
        "--weights",
        default="sglownet-small",
        help=f"a weights file, this kit's or the original's, or a shipped model ({', '.join(shipped)})",
    )
    parser.add_argument("--model", help=f"network the weights should be of: {', '.join(list_models().networks)}")
    parser.add_argument("--stride", type=int, help="pixels from tile to tile, by default 7/8 of the tile")
    parser.add_argument("--tile", default="auto", help='tile side in pixels, "auto" or "none" for whole pictures')
    parser.add_argument("--batch_size", type=int, help="tiles at once")
    parser.add_argument("--device", help="cuda, mps or cpu; by default the best there is")
    return parser.parse_args(argv)


def read_tile(text, stride, model):
    """(tile, overlap) for `denoise`, from --tile and --stride."""
    if text == "none":
        if stride is not None:
            raise KitError("--stride has no meaning with --tile none: leave one out")
        return None, None
    if text != "auto" and not (text.isdecimal() and int(text) >= 16):
        raise KitError(f'--tile is a number of pixels of at least 16, "auto" or "none", not {text!r}')
    tile = automatic_tile(model.config) if text == "auto" else int(text)
    if stride is not None and not 1 <= stride <= tile:
        raise KitError(
            f"--stride is from 1 to the tile's side, {tile}, not {stride}: pixels between tiles would be lost"
        )
    return ("auto", None) if text == "auto" and stride is None else (tile, None if stride is None else tile - stride)


@exit_clearly
def main(argv=None):
    args = parse(argv)
    if args.model is not None:
        require_known("network", args.model, list_models().networks)
    if args.batch_size is not None and args.batch_size < 1:
        raise KitError(f"--batch_size is a number of at least 1, not {args.batch_size}")
    names = result_names(find_pictures(args.input_dir))
    device = own_device(args.device)
    model = open_model(args.weights, args.model, device)
    tile, overlap = read_tile(args.tile, args.stride, model)
    try:
        args.result_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot write in {args.result_dir}: {error.strerror}") from error
    if args.result_dir.resolve() == args.input_dir.resolve():
        raise KitError("--result_dir is the input folder: give another one, so that no picture is overwritten")
    failed, mine = [], sorted(names)[rank() :: world()]
    for path in tqdm(mine, unit="picture", position=rank(), desc=f"process {rank()}" if world() > 1 else None):
        try:
            picture = read_picture(path)
            restored = denoise(model, picture, tile=tile, overlap=overlap, batch_size=args.batch_size)
            write_png(args.result_dir / names[path], restored)
        except (KitError, OSError, torch.OutOfMemoryError) as error:
            failed.append(path.name)
            tqdm.write(f"error: {path.name}: {str(error).splitlines()[0]}", file=sys.stderr)
    print(f"{len(mine) - len(failed)} of {len(mine)} pictures restored in {args.result_dir}")
    if failed:
        raise KitError(f"not restored: {', '.join(failed)}")
