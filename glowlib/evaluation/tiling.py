"""Restoring a picture of any size: whole, or tile by tile, blended without seams."""

import math

import torch

from ..data.images import to_tensor
from ..errors import KitError

SHARED = 32  # pixels that neighbouring automatic tiles share at least


def automatic_tile(config):
    """The largest side of a network's automatic tiles: twice its training size, from 128 to 256, and what they share.

    Context blocks and cross-attention see one tile at a time, so tiles keep to the scale that
    was trained; and the cost of cross-attention per pixel grows with the tile's area.
    """
    return min(256, max(128, 2 * config.training_size)) + SHARED


def fitted(length, largest, overlap, step):
    """The side of the fewest tiles that cover a length, no larger than needed: a multiple of `step`, like `largest`."""
    count = max(1, math.ceil((length - overlap) / (largest - overlap)))
    side = math.ceil((length + (count - 1) * overlap) / count)
    return side + -side % step


def positions(length, tile, overlap):
    """Starts of tiles of side `tile` that cover 0..length evenly, overlapping by at least `overlap`."""
    count = max(1, math.ceil((length - overlap) / (tile - overlap)))
    return [round(i * (length - tile) / max(1, count - 1)) for i in range(count)]


def ramp(tile, overlap):
    """Blending weights along one side, (tile,): rising over the overlap, 1 inside, falling; never 0."""
    index = torch.arange(tile) + 0.5
    return (torch.minimum(index, tile - index) / max(overlap, 1)).clamp(max=1)


def summed_weights(weights, length, overlap):
    """What the weights of all tiles along one side add up to: (tile,) -> (length,)."""
    total = weights.new_zeros(length)
    for start in positions(length, len(weights), overlap):
        total[start : start + len(weights)] += weights
    return total


@torch.no_grad()  # not inference mode, whose tensors the caller could not change in place
def restore_tiles(model, image, sides, overlap, batch_size):
    """(batch, 3, H, W) -> the same shape: every tile through the model, `batch_size` at a time."""
    height, width = image.shape[-2:]
    th, tw = min(sides[0], height), min(sides[1], width)  # never padded to squares
    oh, ow = min(overlap, th - 1), min(overlap, tw - 1)
    corners = [
        (b, top, left)
        for b in range(len(image))
        for top in positions(height, th, oh)
        for left in positions(width, tw, ow)
    ]
    rows, columns = ramp(th, oh).to(image), ramp(tw, ow).to(image)
    total = torch.zeros_like(image)
    for i in range(0, len(corners), batch_size):
        part = corners[i : i + batch_size]
        restored = model(torch.stack([image[b, :, y : y + th, x : x + tw] for b, y, x in part])).to(total.dtype)
        for (b, y, x), r in zip(part, restored, strict=True):
            total[b, :, y : y + th, x : x + tw] += r * rows[:, None] * columns
    # The tiles are a grid: the weights that meet at a pixel add up to a product of its row's and its column's.
    return total.div_(summed_weights(rows, height, oh)[:, None]).div_(summed_weights(columns, width, ow))


def denoise(model, image, *, tile="auto", overlap=None, batch_size=None):
    """Restore a noisy image of any size.

    image: any kind that `glowlib.data.images.to_tensor` takes; the same kind comes back, of the same size, on the same
    device. Integer kinds are clipped and rounded; floats are not clipped. tile: side of the tiles in pixels;
    "auto" for rectangles of at most `automatic_tile`, fitted to the image; None for the whole image at once. overlap:
    pixels that neighbouring tiles share at least, by default an eighth of the tile, or 32 of automatic ones.
    batch_size: tiles restored at once, by default 2 on a CPU and 8 on a GPU.
    The model runs in eval mode on its own device, whatever mode it was left in; weights of lower precision than
    float32 compute in theirs. Raises ValueError for options that do not fit and images that are none.
    """
    parameter = next(model.parameters())
    tensor, rebuild = to_tensor(image)
    if tile == "auto":
        tile = getattr(model, "tile", "auto")  # an exported network has one size
    fit = tile == "auto"
    if fit:
        tile, overlap = automatic_tile(model.config), SHARED if overlap is None else overlap
    if tile is None:
        tile = max(tensor.shape[-2:])
    if type(tile) is not int or tile < 16:
        raise KitError(f'tile is a number of pixels of at least 16, "auto" or None, not {tile!r}')
    overlap = tile // 8 if overlap is None else overlap
    if type(overlap) is not int or not 0 <= overlap < tile:
        raise KitError(f"overlap is a number of pixels from 0 to below the tile ({tile}), not {overlap!r}")
    if batch_size is None:
        batch_size = 2 if parameter.device.type == "cpu" else 8
    if type(batch_size) is not int or batch_size < 1:
        raise KitError(f"batch_size is a number of at least 1, not {batch_size!r}")
    sides = (tile, tile)
    if fit:
        sides = [fitted(length, tile, overlap, 8 * model.config.patch_size) for length in tensor.shape[-2:]]
    training = model.training
    model.eval()
    try:
        working = tensor.to(parameter.device, torch.promote_types(parameter.dtype, torch.float32))
        restored = restore_tiles(model, working, sides, overlap, batch_size)
    finally:
        model.train(training)
    return rebuild(restored.to(tensor))
