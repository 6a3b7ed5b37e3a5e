"""Files of a network for other programs: `python -m glowlib export`.

    python -m glowlib export --weights sglownet-small --out exported

writes sglownet-small-160.onnx (ONNX, https://onnx.ai) and sglownet-small-160.pt2 (torch.export) for tiles of 160×160
pixels, any number at once. With --reduced it writes the kit's optimised form, sglownet-small-160-reduced.onnx, which
has fewer operations and is harder to read. Inputs: `image`, (batch, 3, tile, tile), clean values in [0, 1]; and for a
model with noise normalisation `sigma`, (batch,), 0 to 255 scale, because the estimate is made on whole images. Output:
`restored`, of the shape of `image`, not clipped. glowlib/integrations/backends.py runs them on images of any size.

It needs the packages onnx, onnxscript and onnxruntime: pip install glowlib[export]
"""

import argparse
import json
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from ..errors import KitError, exit_clearly
from ..evaluation.tiling import automatic_tile
from ..files import atomic_write, user_path
from ..networks import fast
from ..networks.pretrained import load_pretrained
from .backends import load_exported

TOLERANCE = 1e-4  # largest difference between the ONNX file and the network, for values in [0, 1]


class OfTiles(nn.Module):
    """A network with the inputs that an exported file has."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, image, sigma=None):
        return self.model(image) if sigma is None else self.model(image, sigma=sigma)


def example_inputs(model: nn.Module, tile: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Inputs of an exported file, random: (image,), or (image, sigma) for a model with noise normalisation."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, 3, tile, tile, generator=generator)
    return (image, torch.linspace(10, 50, batch)) if model.config.noise_normalisation else (image,)


def form(reduced: bool) -> AbstractContextManager:
    """A context in which graphs show the optimised form, or the plain one."""
    return fast.traced() if reduced else fast.disabled()


def export_program(model: nn.Module, tile: int, reduced: bool = False) -> torch.export.ExportedProgram:
    """The network's graph for tiles of one size.

    Args:
        model: a network of this kit, on the CPU, float32.
        tile: side in pixels, a multiple of 8 times the patch size.
        reduced: the optimised form of networks/fast/ in place of the plain one.
    Returns:
        A program of (image,) or (image, sigma), see above; the batch is dynamic.
    Raises:
        KitError: for a tile that the network would have to pad.
    """
    step = 8 * model.config.patch_size
    if tile < step or tile % step:
        raise KitError(f"the tile of this network is a multiple of {step} pixels, not {tile}")
    batch = torch.export.Dim("batch")
    inputs = example_inputs(model, tile)
    dynamic = {"image": {0: batch}, "sigma": {0: batch}} if len(inputs) == 2 else {"image": {0: batch}}
    network = OfTiles(model).eval()
    with torch.no_grad(), form(reduced):
        if reduced:
            network(*inputs)  # what it caches by size is there before the graph is traced
        return torch.export.export(network, inputs, dynamic_shapes=dynamic)


def export(
    model: nn.Module, name: str, folder: Path, tile: int | None = None, reduced: bool = False
) -> tuple[Path, Path]:
    """Write <name>-<tile>.onnx and <name>-<tile>.pt2, and compare the first with the network in ONNX Runtime.

    Args:
        model: a network of this kit, on the CPU, float32; left as it is.
        name: what the files are called.
        folder: where they go; it is made.
        tile: side of the tiles in pixels; None for the side that `denoise` takes.
        reduced: see `export_program`; the names of the files end in -reduced.
    Returns:
        The paths of the two files.
    Raises:
        KitError: where packages are missing, the tile does not fit, the folder cannot be written, or the file
            does not restore as the network does.
    """
    try:
        import onnxruntime  # noqa: F401 -- before the minutes that an export can take
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise KitError(f"exporting needs the package {error.name}: pip install glowlib[export]") from error
    tile = automatic_tile(model.config) if tile is None else tile
    program = export_program(model, tile, reduced)
    description = json.dumps({"network": model.name, "options": asdict(model.config), "tile": tile})
    with form(reduced):
        onnx = torch.onnx.export(
            program,
            input_names=["image", "sigma"][: len(example_inputs(model, tile))],
            output_names=["restored"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    onnx.model.metadata_props["glowlib"] = description
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KitError(f"cannot write in {folder}: {error.strerror}") from error
    name = f"{name}-{tile}-reduced" if reduced else f"{name}-{tile}"
    paths = folder / f"{name}.onnx", folder / f"{name}.pt2"
    with atomic_write(paths[0]) as temporary:
        onnx.save(temporary)
    with atomic_write(paths[1]) as temporary, temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={"glowlib": description})
    difference = largest_difference(model, paths[0], tile)
    if not difference <= TOLERANCE:
        raise KitError(
            f"{paths[0]} differs from the network by {difference:.1e}, more than {TOLERANCE:g}: do not use it"
        )
    return paths


def largest_difference(model: nn.Module, path: Path, tile: int) -> float:
    """Between an exported file in ONNX Runtime and the network in its plain form, over three random tiles at once."""
    inputs = example_inputs(model, tile, batch=3)
    with torch.no_grad(), fast.disabled():
        return (load_exported(path)(*inputs) - OfTiles(model)(*inputs)).abs().max().item()


@exit_clearly
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m glowlib export", description=__doc__.split(":")[0] + ".")
    parser.add_argument("--weights", default="sglownet-small", help="a shipped model or a weights file")
    parser.add_argument("--tile", type=int, help="side of the tiles in pixels, by default that of denoise")
    parser.add_argument("--reduced", action="store_true", help="the kit's optimised form: faster, harder to read")
    parser.add_argument("--out", type=user_path, default=Path("exported"), help="folder for the files")
    args = parser.parse_args(argv)
    for path in export(load_pretrained(args.weights), Path(args.weights).stem, args.out, args.tile, args.reduced):
        print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
