"""State dicts without a description: a network rebuilt from the names and shapes of its tensors.

The original implementation's checkpoints take the published configuration for what no tensor shows. Weights of this kit
that were saved without their description look the same but for two signs, see `is_original`; for them, options that no
tensor shows are never guessed.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..errors import KitError
from . import NETWORKS, OPTIONS, PUBLISHED, create_model, require_known

# What training scripts save a state dict under; averaged weights come first, as they are the ones to restore with.
STATE_DICTS = ("params_ema", "params", "state_dict", "model_state_dict", "model")
# Names that data parallelism, torch.compile, Lightning modules and the original put before those of a network.
WRAPPERS = re.compile(r"^((module|_orig_mod|swin_unet|gc_net|model|net|network)\.)+")
# A Swin block of an encoder stage, of a decoder stage or of the denoising head.
BLOCK = re.compile(
    r"((?P<side>layers|layers_up)\.(?P<stage>\d)|bottleneck\.block)\.blocks\.(?P<block>\d+)(?=\.attn\.relative_position)"
)
NEVER_USED = ("prelu.", "gc_norm_up.", "gc_upsample_blocks.")  # the original keeps them and never calls them


def square_root(number: int, name: str) -> int:
    """The root of a square number, which the tensor `name` shows."""
    root = math.isqrt(number)
    if root * root != number:
        raise KitError(f"{name} does not fit any of the networks: {number} is not a square")
    return root


class Shapes(dict):
    """Names and shapes of a checkpoint, {name: shape}."""

    def __missing__(self, name):
        raise KitError(f"the checkpoint lacks {name}: it is not of one of the networks {', '.join(NETWORKS)}")

    def has(self, part: str) -> bool:
        return any(part in name for name in self)

    def of(self, name: str, ndim: int) -> tuple:
        """The shape of a tensor that options are read from."""
        shape = self[name]
        if len(shape) != ndim or 0 in shape:
            raise KitError(f"the checkpoint's {name} is {shape}, which none of the networks has")
        return shape


def unwrap(content: Any) -> dict:
    """The state dict in what a training script saved: {"state_dict": …, "epoch": …} and the like.

    Args:
        content: a state dict, or a dict that has one under one of the keys `STATE_DICTS`.
    Returns:
        {name: tensor}, without the prefixes of `WRAPPERS`.
    Raises:
        KitError: for anything else; it names the keys found.
    """
    if isinstance(content, dict):
        content = next((content[key] for key in STATE_DICTS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        raise KitError(f"expected a state dict, names and tensors, not {type(content).__name__}")
    others = [key for key, value in content.items() if not (isinstance(key, str) and is_plain(value))]
    if others:
        raise KitError(
            f"expected a state dict, names and plain tensors, alone or under one of the keys {', '.join(STATE_DICTS)}; "
            f"found {listed(others)}"
        )
    tensors = {}
    for key, tensor in content.items():
        name = WRAPPERS.sub("", key)
        if name in tensors:
            raise KitError(f"the checkpoint has {listed([name])} twice, under different prefixes")
        tensors[name] = tensor
    return tensors


def is_plain(value: Any) -> bool:
    """Whether this is a tensor whose values are in memory one by one: not sparse, nested or a subclass."""
    return type(value) in (torch.Tensor, nn.Parameter) and value.layout == torch.strided and not value.is_nested


def listed(keys: list) -> str:
    """The first of some keys of a file, cut short and in quotes: what a file holds may be of any length."""
    more = ", …" if len(keys) > 8 else ""
    return ", ".join(repr(key)[:80] for key in keys[:8]) + more


def is_original(shapes: Shapes) -> bool:
    """Whether the original implementation saved this.

    It stores the indices of the position bias, which this kit derives, and layers that are never used.
    """
    return shapes.has("relative_position_index") or any(name.startswith(NEVER_USED) for name in shapes)


def read_variant(shapes: Shapes) -> str:
    """The network's name."""
    if shapes.has("gc_channel_proj."):
        return "sglownet"
    if shapes.has("gc_up."):
        return "glownet"
    return "sunet" if shapes.has("patch_embed.") else "gcunet"


def read_windows(shapes: Shapes, depths: tuple, patch: int) -> tuple[tuple, int, int | None]:
    """(heads of each stage, window size, training size or None) from the bias tables and the masks."""
    names = [f"layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(4)]
    tables = [shapes.of(name, 2) for name in names]
    windows = [(square_root(rows, name) + 1) // 2 for name, (rows, _) in zip(names, tables, strict=True)]
    size = None
    complete = shapes.has("relative_position_index")  # derived buffers are in the file, so a missing mask tells
    for i, window in reversed(list(enumerate(windows))):
        mask = f"layers.{i}.blocks.1.attn_mask"
        if mask in shapes:
            grid = square_root(shapes.of(mask, 3)[0], mask) * window
        elif (complete and depths[i] > 1 and window > 1) or window < windows[0]:
            grid = window  # nothing shifts, or the window had to shrink: it is the whole grid
        else:
            continue
        size = grid * patch * 2**i
    return tuple(heads for _, heads in tables), windows[0], size


def read_head_windows(shapes: Shapes, patch: int) -> tuple[int, int, int | None]:
    """(heads, window size, training size or None) of GCUNet, whose only windows are in the denoising head."""
    table, mask = (f"bottleneck.block.blocks.{name}" for name in ("0.attn.relative_position_bias_table", "1.attn_mask"))
    rows, heads = shapes.of(table, 2)
    window = (square_root(rows, table) + 1) // 2
    if mask in shapes:
        return heads, window, square_root(shapes.of(mask, 3)[0], mask) * window * patch * 8
    return heads, window, window * patch * 8 if is_original(shapes) else None


def read_context(shapes: Shapes, first: str) -> dict[str, Any]:
    """Options of the context blocks, whose first one is named `first`."""
    pattern = re.compile(r"channel_(mul|add)_conv\.0\.weight$")
    names = [name for name in shapes if pattern.search(name) and not name.startswith("bott")]
    if not names and not is_original(shapes):
        return {"context_blocks": False}
    types = [kind for kind in ("mul", "add") if shapes.has(f"{first}.channel_{kind}_conv.")]
    if not types or not names:
        raise KitError(f"the checkpoint lacks {first}.channel_add_conv.0.weight: no context block is like this")
    hidden, dim = max(shapes.of(name, 4)[:2] for name in names)
    ratio = hidden / dim
    # A quotient may round to a hair too little; half a channel more gives the same widths.
    ratio = ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim
    pooling = "att" if shapes.has(f"{first}.conv_mask.") else "avg"
    return {"context_blocks": True, "context_ratio": ratio, "context_pooling": pooling, "context_fusion": tuple(types)}


def read_fusion(shapes: Shapes) -> tuple:
    """The kinds of cross-attention that have these names."""
    if shapes.has("cross_attention.norm_local."):
        return ("cross",)
    return ("gated", "gated_posenc") if shapes.has("cross_attention.gate_proj.") else ("posenc", "rope")


def read_options(shapes: Shapes, hints: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """(network, options) of a checkpoint.

    An option is read off the shapes, or is a hint, or, for the original's checkpoints alone, the published one.
    """
    variant = read_variant(shapes)
    dim = shapes.of("output.weight", 4)[1]
    depths = tuple(len({n.split(".")[3] for n in shapes if n.startswith(f"layers.{i}.blocks.")}) for i in range(4))
    patch = square_root(shapes.of("up.up_p.0.weight", 4)[0] // dim, "up.up_p.0.weight (over output.weight)")
    head = shapes.has("bottleneck.")
    options = {"embed_dim": dim, "patch_size": patch, "depths": depths, "denoising_head": head}
    unseen = ["global_residual", "noise_normalisation", "training_size"]
    if variant == "gcunet":
        options["num_heads"] = (1, 1, 1, 1)
        options |= read_context(shapes, "layers.0.blocks.0")
        if not options["context_blocks"]:
            options["depths"] = (1, 1, 1, 1)  # of no blocks: any
        if head:
            heads, options["window_size"], options["training_size"] = read_head_windows(shapes, patch)
            options["num_heads"] = (1, 1, 1, heads)
    else:
        options["num_heads"], options["window_size"], options["training_size"] = read_windows(shapes, depths, patch)
        if variant != "sunet":
            options |= read_context(shapes, "gcn.0" if variant == "sglownet" else "layers.0.context_blocks.0")
            unseen.append("attention_reach")
            possible = read_fusion(shapes)
            if hints.get("fusion", possible[0]) not in possible:
                raise KitError(f"the checkpoint's cross-attention is {' or '.join(possible)}, not {hints['fusion']!r}")
            options["fusion"] = possible[0] if len(possible) == 1 else None
            unseen.append("fusion")
    if variant != "gcunet" or head:
        unseen.append("qk_scale")
    options = {option: value for option, value in options.items() if value is not None}
    for option, hint in hints.items():
        hint = tuple(hint) if isinstance(hint, list) else hint
        if options.setdefault(option, hint) != hint:
            raise KitError(f"the checkpoint shows {option} = {options[option]}, not {hint}")
    missing = [option for option in unseen if option not in options]
    if missing and not is_original(shapes):
        published = ", ".join(f"{option}={getattr(PUBLISHED[variant], option)!r}" for option in missing)
        raise KitError(
            f"this {variant} comes without a description of this kit, and no tensor shows {', '.join(missing)}: "
            f"give what it was trained with as hints (the published configuration has {published})"
        )
    if "fusion" in missing and PUBLISHED[variant].fusion not in possible:
        options["fusion"] = possible[0]
    if "training_size" in missing and "window_size" in options:
        # Every grid is larger than its window, and nothing shifts: any such size will do.
        least = 8 * patch * options["window_size"]
        options["training_size"] = least * math.ceil(PUBLISHED[variant].training_size / least)
    return variant, options


def derived_shapes(model: nn.Module) -> dict[str, tuple]:
    """Names and shapes of the buffers that the original stores and this kit derives."""
    config, shapes = model.config, {}
    for name in model.state_dict():
        block = BLOCK.match(name)
        if block is None:
            continue
        stage = {"layers": 0, "layers_up": 3, None: 3}[block["side"]]
        stage = abs(stage - int(block["stage"] or 0))
        grid = config.training_size // (config.patch_size * 2**stage)
        window = min(config.window_size, grid)
        shapes[f"{block[0]}.attn.relative_position_index"] = (window**2, window**2)
        if int(block["block"]) % 2 and 1 < window < grid:  # its windows are shifted
            shapes[f"{block[0]}.attn_mask"] = ((grid // window) ** 2, window**2, window**2)
    return shapes


def build_with(name: str, options: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of these options with these weights, in eval mode.

    Names and shapes are compared on the meta device first: no memory is taken for weights that are not there.

    Args:
        name, options: of `create_model`.
        tensors: {name: tensor}, all the network's and no others but the original's derived buffers.
    Returns:
        The network, float32, on the CPU; the tensors are copied.
    Raises:
        KitError: where options do not fit together, or a tensor is missing, left over, of another shape or
            kind, or not finite; it names the tensor.
    """
    if "depths" in options and sum(options["depths"]) > len(tensors):
        raise KitError(f"depths = {options['depths']} are more blocks than the checkpoint has tensors, {len(tensors)}")
    with torch.device("meta"):
        planned = create_model(name, **options)
    expected, derived = planned.state_dict(), derived_shapes(planned)
    for key, shape in {**{key: tuple(value.shape) for key, value in expected.items()}, **derived}.items():
        found = tuple(tensors[key].shape) if key in tensors else None
        if found != shape and (found is not None or key in expected):
            raise KitError(f"the checkpoint's {key} is {found or 'missing'}, but a {name} like this has {shape}")
    extra = sorted(set(tensors) - set(expected) - set(derived))
    if extra:
        raise KitError(f"the checkpoint's {listed(extra[:1])} belongs to no {name} like this")
    for key, plan in expected.items():
        tensor = tensors[key]
        if tensor.is_complex() or (plan.is_floating_point() and not tensor.is_floating_point()):
            raise KitError(f"the checkpoint's {key} holds {tensor.dtype} values, not {plan.dtype}")
        if not tensor.is_meta and not tensor.to(plan.dtype).isfinite().all():
            raise KitError(f"the checkpoint's {key} holds NaN or infinite values: nothing can be restored with it")
    model = create_model(name, **options)
    model.load_state_dict({key: tensors[key] for key in expected})
    return model.eval()


def from_original(state_dict: Mapping[str, Any], **hints: Any) -> nn.Module:
    """Rebuild a network from the names and shapes of its checkpoint.

    Args:
        state_dict: {name: tensor} as the original implementation saves it; or weights of this kit without their
            description. It may lie under one of the keys `STATE_DICTS`, and its names may begin with one of `WRAPPERS`.
            Tensors that the original never uses are dropped.
        **hints: options of `create_model` that no tensor shows: `qk_scale` (None for head_dim^-0.5),
            `global_residual`, `noise_normalisation`, `attention_reach`, `training_size`, `drop_path_rate`, and `fusion`
            where names coincide (posenc and rope, gated and gated_posenc). A checkpoint of the original needs
            none: the published configuration is the default. Weights of this kit need all but `drop_path_rate`.
    Returns:
        The network, in eval mode, float32, on the CPU.
    Raises:
        KitError: it names the first tensor that is missing, left over, of another shape or not finite, a
            hint that the shapes contradict, or the hints to give.
    """
    for hint in hints:
        require_known("hint", hint, OPTIONS)
    tensors = unwrap(state_dict)
    shapes = Shapes((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    variant, options = read_options(shapes, hints)
    return build_with(variant, options, {n: t for n, t in tensors.items() if not n.startswith(NEVER_USED)})
