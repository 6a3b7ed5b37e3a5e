"""Published checkpoints: a network rebuilt from the names and shapes of its tensors."""

import math
import re

import torch

from ..errors import KitError
from . import NETWORKS, OPTIONS, PUBLISHED, create_model, require_known
from .base import Denoiser
from .swin import WindowAttention

WRAPPERS = re.compile(r"^((module|swin_unet|gc_net|_orig_mod)\.)+")
NEVER_USED = ("prelu.", "gc_norm_up.", "gc_upsample_blocks.")  # the original keeps them and never calls them


def square_root(number: int, name: str) -> int:
    """The root of a square number; KitError that names the tensor it was read from otherwise."""
    root = math.isqrt(number)
    if root * root != number:
        raise KitError(f"{name} does not fit any of the networks: {number} is no square")
    return root


class Shapes(dict):
    """Names and shapes of a checkpoint, {name: shape}; a missing name is a KitError."""

    def __missing__(self, name):
        raise KitError(f"the checkpoint lacks {name}: it is not of one of the networks {', '.join(NETWORKS)}")

    def has(self, part: str) -> bool:
        """Whether any name contains `part`."""
        return any(part in name for name in self)

    def of(self, name: str, ndim: int) -> tuple:
        """The shape of a tensor of `ndim` dimensions that options are read from."""
        shape = self[name]
        if len(shape) != ndim or 0 in shape:
            raise KitError(f"the checkpoint's {name} is {shape}, which none of the networks has")
        return shape


def read_variant(shapes: Shapes) -> str:
    """The network's name."""
    if shapes.has("gcn.0."):
        return "sglownet"
    if shapes.has("gc_up."):
        return "glownet"
    return "sunet" if shapes.has("patch_embed.") else "gcunet"


def read_windows(shapes: Shapes, depths: tuple, patch: int) -> tuple[tuple, int, int | None]:
    """(heads of each stage, window size, training size or None), from the bias tables and the masks."""
    names = [f"layers.{i}.blocks.0.attn.relative_position_bias_table" for i in range(4)]
    tables = [shapes.of(name, 2) for name in names]
    windows = [(square_root(rows, name) + 1) // 2 for name, (rows, _) in zip(names, tables, strict=True)]
    size = None
    complete = shapes.has("relative_position_index")  # derived buffers are stored, so a missing mask means no shift
    for i, window in reversed(list(enumerate(windows))):
        mask = f"layers.{i}.blocks.1.attn_mask"
        if mask in shapes:
            grid = square_root(shapes.of(mask, 3)[0], mask) * window
        elif (complete and depths[i] > 1 and window > 1) or window < windows[0]:
            grid = window  # nothing shifts, or the window was shrunk: it is the whole grid
        else:
            continue
        size = grid * patch * 2**i
    return tuple(heads for _, heads in tables), windows[0], size


def read_context(shapes: Shapes, first: str) -> dict:
    """Options of the context blocks, of which `first` is the first one's name."""
    types = [kind for kind in ("mul", "add") if shapes.has(f"{first}.channel_{kind}_conv.")]
    pattern = re.compile(r"channel_(mul|add)_conv\.0\.weight$")
    sizes = [shapes.of(name, 4)[:2] for name in shapes if pattern.search(name) and not name.startswith("bott")]
    if not types or not sizes:
        raise KitError(f"the checkpoint lacks {first}.channel_add_conv.0.weight: no context block is like this")
    hidden, dim = max(sizes)
    ratio = hidden / dim
    # int(dim * ratio) may come out one too small by rounding; half a channel more gives the same widths.
    ratio = ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim
    pooling = "att" if shapes.has(f"{first}.conv_mask.") else "avg"
    return {"context_ratio": ratio, "context_pooling": pooling, "context_fusion": tuple(types)}


def read_fusion(shapes: Shapes, hint: str | None, default: str) -> str:
    """The option `fusion`, from the tensors' names; `hint`, else `default`, where two kinds have the same names."""
    if shapes.has("cross_attention.norm_local."):
        possible = ("cross",)
    elif shapes.has("cross_attention.gate_proj."):
        possible = ("gated", "gated_posenc")
    else:
        possible = ("posenc", "rope")
    if hint is not None and hint not in possible:
        raise KitError(f"the checkpoint's cross-attention is {' or '.join(possible)}, not {hint!r}")
    return hint or (default if default in possible else possible[0])


def read_options(shapes: Shapes, hints: dict) -> tuple[str, dict]:
    """(network, options) of a checkpoint: options that names and shapes determine, and the hints for others."""
    variant = read_variant(shapes)
    dim = shapes.of("output.weight", 4)[1]
    depths = tuple(len({n.split(".")[3] for n in shapes if n.startswith(f"layers.{i}.blocks.")}) for i in range(4))
    patch = square_root(shapes.of("up.up_p.0.weight", 4)[0] // dim, "up.up_p.0.weight (over output.weight)")
    options = {"embed_dim": dim, "patch_size": patch, "depths": depths}
    options["denoising_head"] = shapes.has("bottleneck.")
    if variant == "gcunet":
        options["num_heads"] = (1, 1, 1, 1)
        options |= read_context(shapes, "layers.0.blocks.0")
        if options["denoising_head"]:
            table = "bottleneck.block.blocks.0.attn.relative_position_bias_table"
            mask = "bottleneck.block.blocks.1.attn_mask"
            rows, heads = shapes.of(table, 2)
            options["num_heads"] = (1, 1, 1, heads)
            window = (square_root(rows, table) + 1) // 2
            windows = square_root(shapes.of(mask, 3)[0], mask) if mask in shapes else 1
            size = windows * window * patch * 8
            options |= {"window_size": window, "training_size": size}
    else:
        options["num_heads"], options["window_size"], size = read_windows(shapes, depths, patch)
        if size is None:  # no window was shrunk and nothing shifts: any such size gives the same network
            least = 8 * patch * options["window_size"]
            size = hints.get("training_size", least * math.ceil(PUBLISHED[variant].training_size / least))
        options["training_size"] = size
        if variant != "sunet":
            first = "gcn.0" if variant == "sglownet" else "layers.0.context_blocks.0"
            options |= read_context(shapes, first)
            options["fusion"] = read_fusion(shapes, hints.get("fusion"), PUBLISHED[variant].fusion)
    for option, hint in hints.items():
        hint = tuple(hint) if isinstance(hint, list) else hint
        if options.setdefault(option, hint) != hint:
            raise KitError(f"the checkpoint shows {option} = {options[option]}, not {hint}")
    return variant, options


def derived_shapes(model: Denoiser) -> dict[str, tuple]:
    """Names and shapes of the buffers that the original stores and this package derives."""
    shapes = {}
    for name, attention in model.named_modules():
        if not isinstance(attention, WindowAttention):
            continue
        window = attention.window
        shapes[f"{name}.relative_position_index"] = (window**2, window**2)
        if attention.shift:
            stage = int(name.split(".")[1]) if name.startswith("layers.") else 3
            stage = 3 - int(name.split(".")[1]) if name.startswith("layers_up.") else stage
            grid = model.config.training_size // (model.config.patch_size * 2**stage)
            shapes[f"{name.removesuffix('.attn')}.attn_mask"] = ((grid // window) ** 2, window**2, window**2)
    return shapes


def from_original(state_dict: dict[str, torch.Tensor], **hints) -> Denoiser:
    """Rebuild a published network from its checkpoint. Tensors that the original never uses are dropped.

    Args:
        state_dict: names and tensors as the original implementation saves them, with or without the prefixes
            "module.", "swin_unet." and "gc_net.".
        hints: options (see `create_model`) that no tensor shows: `qk_scale` (None for head_dim^-0.5), `fusion` where
            names coincide (posenc/rope, gated/gated_posenc), `drop_path_rate`; by default those of the published
            configuration.

    Returns:
        The network, in eval mode.

    Raises:
        KitError: a ValueError, that names the first tensor that is missing, left over or of another shape, or the hint
            that the shapes contradict.
    """
    for hint in hints:
        require_known("hint", hint, OPTIONS)
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state_dict.items()
    ):
        raise KitError("expected a state dict: names and tensors")
    tensors = {WRAPPERS.sub("", name): tensor for name, tensor in state_dict.items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(NEVER_USED)}
    shapes = Shapes((name, tuple(tensor.shape)) for name, tensor in tensors.items())
    variant, options = read_options(shapes, hints)
    model = create_model(variant, **options)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name, shape in {**expected, **derived_shapes(model)}.items():
        found = shapes.get(name)
        if found != shape and (found is not None or name in expected):
            raise KitError(f"the checkpoint's {name} is {found or 'missing'}, but a {variant} like this has {shape}")
    extra = sorted(set(shapes) - set(expected) - set(derived_shapes(model)))
    if extra:
        raise KitError(f"the checkpoint's {extra[0]} belongs to no {variant} like this")
    model.load_state_dict({name: tensors[name] for name in expected})
    return model.eval()
