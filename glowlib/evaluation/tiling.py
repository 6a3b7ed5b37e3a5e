"""Restoring an image of any size: whole, or tile by tile, blended without seams."""

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from numbers import Real

import torch
from torch import nn

from ..data.images import ImageLike, Pixels, to_pixels
from ..errors import KitError, whole_number
from ..networks.base import LEAST_LEVEL
from ..networks.noise_level import estimate_sigma

SHARED = 32  # pixels that neighbouring automatic tiles share at least


def automatic_tile(config) -> int:
    """The largest side of a network's automatic tiles: twice its training size, from 128 to 256, and what they share.

    Context blocks and cross-attention see one tile at a time, so tiles keep to the scale that
    was trained; and the cost of cross-attention per pixel grows with the tile's area.
    """
    return min(256, max(128, 2 * config.training_size)) + SHARED


def fitted(length: int, largest: int, overlap: int, step: int) -> int:
    """The side of the fewest tiles that cover a length, no larger than needed: a multiple of `step`, like `largest`."""
    count = max(1, math.ceil((length - overlap) / (largest - overlap)))
    side = math.ceil((length + (count - 1) * overlap) / count)
    return side + -side % step


def positions(length: int, tile: int, overlap: int) -> list[int]:
    """Starts of tiles of side `tile` that cover 0..length evenly, overlapping by at least `overlap`."""
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


def ramp(tile: int, overlap: int) -> torch.Tensor:
    """Blending weights along one side, (tile,): rising over the overlap, 1 inside, falling; never 0."""
    index = torch.arange(tile, dtype=torch.float32) + 0.5  # whatever the default type is
    return (torch.minimum(index, tile - index) / max(overlap, 1)).clamp(max=1)


def summed_weights(weights: torch.Tensor, length: int, overlap: int) -> torch.Tensor:
    """The sum of the weights of all tiles along one side: (tile,) -> (length,)."""
    total = weights.new_zeros(length)
    for start in positions(length, len(weights), overlap):
        total[start : start + len(weights)] += weights
    return total


@torch.no_grad()  # not inference mode, whose tensors the caller could not change in place
def restore_tiles(
    model: Callable, pixels: Pixels, sides, overlap: int, batch_size: int, levels: torch.Tensor | None = None
) -> torch.Tensor:
    """Every tile through the model, `batch_size` at a time.

    Args:
        pixels: an image batch on the model's device. sides: height and width of the tiles. overlap: pixels that
        neighbouring tiles share at least. levels: σ of each image (batch,), given to the model as `sigma`.
    Returns:
        (batch, 3, H, W), not clipped.
    Raises:
        KitError: where the model returns values that are not finite.
    """
    number, _, height, width = pixels.values.shape
    th, tw = min(sides[0], height), min(sides[1], width)  # never padded to squares
    oh, ow = min(overlap, th - 1), min(overlap, tw - 1)
    corners = [
        (b, top, left) for b in range(number) for top in positions(height, th, oh) for left in positions(width, tw, ow)
    ]
    total = torch.zeros((number, 3, height, width), dtype=pixels.dtype, device=pixels.values.device)
    rows, columns = ramp(th, oh).to(total), ramp(tw, ow).to(total)
    finite = torch.ones((), dtype=torch.bool, device=total.device)
    for i in range(0, len(corners), batch_size):
        part = corners[i : i + batch_size]
        tiles = torch.stack([pixels.scaled(pixels.values[b, :, y : y + th, x : x + tw]) for b, y, x in part])
        given = {} if levels is None else {"sigma": levels[[b for b, _, _ in part]]}
        restored = model(tiles, **given).to(total.dtype)
        finite &= restored.isfinite().all()
        for (b, y, x), r in zip(part, restored, strict=True):
            total[b, :, y : y + th, x : x + tw] += r * rows[:, None] * columns
    if not finite:
        raise KitError("the network returned values that are not finite: its weights are damaged, or overflow here")
    # The tiles are a grid: the weights that meet at a pixel add up to a product of its row's and its column's.
    return total.div_(summed_weights(rows, height, oh)[:, None]).div_(summed_weights(columns, width, ow))


def ready(model: Callable) -> Callable:
    """The model in eval mode, out of the wrappers of several GPUs.

    A model in training mode is not switched, which would disturb other threads that use it: a copy that shares its
    tensors is.
    """
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    if not isinstance(model, nn.Module) or not any(module.training for module in model.modules()):
        return model
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()


def noise_levels(model: Callable, pixels: Pixels, sigma, strength: float) -> torch.Tensor | None:
    """σ of each image (batch,): given, or estimated on the whole image, times strength. None for a model without it."""
    if not getattr(getattr(model, "config", None), "noise_normalisation", False):
        if sigma is not None or strength != 1:
            raise KitError("this model has no noise normalisation, so it takes neither sigma nor strength")
        return None
    number, _, height, width = pixels.values.shape
    if sigma is None:
        if min(height, width) < 2:
            raise KitError(f"the noise of {height}×{width} pixels cannot be estimated: give sigma")
        levels = estimate_sigma(pixels.whole().to(pixels.dtype)).clamp(min=LEAST_LEVEL)
    else:
        try:
            levels = torch.as_tensor(sigma, dtype=torch.float64).detach().cpu().flatten()
        except (TypeError, ValueError, RuntimeError):
            levels = torch.zeros(0)
        if len(levels) not in (1, number) or not (levels.isfinite() & (levels > 0)).all():
            raise KitError(f"sigma is a number above 0 (0 to 255 scale), or one for each of the {number} images")
        levels = levels.to(pixels.dtype).to(pixels.values.device).expand(number)
    return levels * strength


def flip_and_turn(x: torch.Tensor, flip: bool, quarters: int) -> torch.Tensor:
    """x (..., H, W), mirrored or not, then turned by quarters."""
    x = x.flip(-1) if flip else x
    return x.rot90(quarters, (-2, -1)) if quarters else x  # without a copy


def turn_and_flip_back(x: torch.Tensor, flip: bool, quarters: int) -> torch.Tensor:
    """The inverse of `flip_and_turn`."""
    x = x.rot90(-quarters, (-2, -1)) if quarters else x
    return x.flip(-1) if flip else x


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or a GPU; PyTorch has no class of its own for the CPU."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or ("memory" in text and "alloc" in text)


def usual_device():
    """A context in which new tensors are on the CPU, whatever torch.set_default_device was given."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def denoise(
    model: Callable,
    image: ImageLike,
    *,
    sigma: float | Sequence[float] | torch.Tensor | None = None,
    strength: float = 1.0,
    ensemble: int = 1,
    tile: int | str | None = "auto",
    overlap: int | None = None,
    batch_size: int | None = None,
) -> ImageLike:
    """Restore a noisy image of any size.

    Args:
        model: a network of `glowlib.create_model`, or any function (batch, 3, H, W) -> (batch, 3, H, W). One that has
            no `config.training_size` and `config.patch_size` needs a tile. The model is left as it is: one in
            training mode is restored with in eval mode, by a copy that shares its weights, so threads may share it.
        image: any kind that `glowlib.data.images.to_tensor` takes, values in [0, 1] under noise; 0 to 255 or 65535 for
            integers.
        sigma: the level of the noise (0 to 255 scale, above 0), one number or one for each image of a batch, in place
            of the estimate; for models with noise normalisation. Without it σ is estimated once for each image.
        strength: the given or estimated σ is multiplied by it: above 1 removes more, below 1 keeps more.
        ensemble: 8 restores the eight flips and turns of the image and returns their mean: slower, a little better.
        tile: side of the tiles in pixels; "auto" for rectangles of at most `automatic_tile`, fitted to the image; None
            for the whole image at once.
        overlap: pixels that neighbouring tiles share at least, by default an eighth of the tile, or 32 of automatic
            ones.
        batch_size: tiles restored at once, by default 2 on a CPU and 8 on a GPU.
    Returns:
        The same kind of image, of the same size, on the same device. Integers are clipped and rounded; floats are not
        clipped. Weights of lower precision than float32 compute in theirs.
    Raises:
        KitError: a ValueError of one line, for options that do not fit, images that are none, memory that does not
            suffice, and results that are not finite.
    """
    with usual_device():
        try:
            return restore(ready(model), to_pixels(image), sigma, strength, ensemble, tile, overlap, batch_size)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            reason = "; on a GPU, device cpu has more" if isinstance(error, torch.OutOfMemoryError) else ""
    raise KitError(f"there is not enough memory for this image: choose a smaller tile, or batch_size 1{reason}")


def restore(model, pixels: Pixels, sigma, strength, ensemble, tile, overlap, batch_size):
    """`denoise` of checked pixels by a model in eval mode."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    parameter = torch.empty(0, dtype=torch.float32) if parameter is None else parameter
    if isinstance(tile, str) and tile == "auto":
        tile = getattr(model, "tile", "auto")  # an exported network has one size
    fit, config = isinstance(tile, str) and tile == "auto", getattr(model, "config", None)
    if fit:
        if not hasattr(config, "training_size") or not hasattr(config, "patch_size"):
            raise KitError("this model does not say the size it was trained for (config.training_size): give tile")
        tile, overlap = automatic_tile(config), SHARED if overlap is None else overlap
    if tile is None:
        tile = max(pixels.values.shape[-2:])
    tile = whole_number(tile, 16, 'tile is a number of pixels of at least 16, "auto" or None')
    overlap = tile // 8 if overlap is None else overlap
    message = f"overlap is a number of pixels from 0 to below the tile ({tile})"
    overlap = whole_number(overlap, 0, message)
    if overlap >= tile:
        raise KitError(f"{message}, not {overlap}")
    if batch_size is None:
        batch_size = 2 if parameter.device.type == "cpu" else 8
    batch_size = whole_number(batch_size, 1, "batch_size is a number of at least 1")
    if whole_number(ensemble, 1, "ensemble is 1 or 8") not in (1, 8):
        raise KitError(f"ensemble is 1 or 8, not {ensemble}")
    if isinstance(strength, bool) or not isinstance(strength, Real) or not 0 < strength < math.inf:
        raise KitError(f"strength is a number above 0, not {strength!r}")
    dtype, device = pixels.dtype, pixels.values.device
    with torch.no_grad():
        working = pixels.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))
        levels = noise_levels(model, working, sigma, strength)
        total = None
        for flip, quarters in [(flip, quarters) for flip in (False, True) for quarters in range(4)][:ensemble]:
            turned = replace(working, values=flip_and_turn(working.values, flip, quarters))
            sides = (tile, tile)
            if fit:
                sides = [fitted(length, tile, overlap, 8 * config.patch_size) for length in turned.values.shape[-2:]]
            restored = restore_tiles(model, turned, sides, overlap, batch_size, levels)
            restored = turn_and_flip_back(restored, flip, quarters)
            total = restored if total is None else total.add_(restored)
        restored = total if ensemble == 1 else total.div_(ensemble)
    return pixels.rebuild(restored.to(device).to(dtype))  # the device first: Apple's GPUs have no float64
