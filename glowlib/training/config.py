"""A training recipe as data, and how such data is read: unknown keys and values out of range are refused by name."""

import math
from bisect import bisect_right
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_args, get_origin

from ..errors import KitError

# The range of each number of a recipe, ends included.
RANGES = {
    "steps batch_size hold_out epoch validate_every checkpoint_every": (1, math.inf),
    "crop": (16, math.inf),
    "share_8bit share_grey share_drawn share_permuted share_saturation ema": (0, 1),
    "lr": (1e-12, math.inf),
    "min_lr warmup weight_decay clip": (0, math.inf),
    "seed": (0, 2**31 - 1),  # the seed of a step is made of this, the step and the process, in 64 bits
    "workers": (-1, 512),
}
CHOICES = {
    "loss": ("l1", "charbonnier"),
    "optimizer": ("adamw", "adam", "muon"),
    "batch_norm": ("batch", "frozen"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}
WORDS = {int: "a whole number", float: "a number", str: "text", tuple: "a list", dict: "keys and values"}


class CropStage(NamedTuple):
    """A part of a training with crops of one size, see `TrainingConfig.grow_at`."""

    first_step: int
    first_position: int  # number of its first crop, counted from the start of the training
    crop: int  # side of its crops, pixels
    batch_size: int


@dataclass(frozen=True)
class TrainingConfig:
    """A training recipe: everything that changes the result of a training is here.

    The defaults are a recipe for a small blind model on a single device; the profiles hold the recipes that are used.
    """

    # Data
    data: str = "BSD400"  # training set; the one most papers on colour denoising share, small enough for a CPU
    hold_out: int = 20  # its last images by name: the validation split, never trained on
    pairs: str = ""  # folder of the paper's pairs in the data folder ("glowlib pairs"); empty: fresh crops and noise
    crop: int = 64  # side of a training crop, pixels: several windows wide, and cheap
    sigma: tuple[float, ...] = (5, 50)  # noise level of a crop, uniform in this range (the paper's blind range)
    share_8bit: float = 0.25  # crops with the `8bit` noise protocol, so that one model serves both protocols
    share_grey: float = 0.1  # crops made grey, with equal noise in the three channels: grey images are restored too
    share_drawn: float = 0.0  # synthetic crops (text, stripes, flat areas), which a model of photographs alone blurs
    share_permuted: float = 0.0  # crops whose colour channels are permuted: no colour is rare
    share_saturation: float = 0.0  # crops whose saturation is multiplied by a random factor, 1/2 to 2

    # Optimisation
    steps: int = 10_000
    batch_size: int = 16  # over all devices; micro-batches and processes leave it as it is
    loss: str = "l1"  # "l1" (the paper's), or "charbonnier", which is smooth at zero
    optimizer: str = "adamw"  # "adamw", "adam" (the paper's), or "muon" (for matrices; AdamW for the rest)
    lr: float = 1e-3  # learning rate after the warm-up
    min_lr: float = 1e-6  # where each cosine ends: above zero, as published
    restarts: tuple[int, ...] = ()  # steps of the warm restarts (SGDR); those beyond `steps` never come
    restart_lr: tuple[float, ...] = ()  # learning rate that each restart begins with
    restart_drawn: tuple[float, ...] = ()  # `share_drawn` from each restart on; empty: unchanged
    grow_at: tuple[int, ...] = ()  # steps at which crops grow and batches shrink: small crops first save time
    grow_to: tuple[int, ...] = ()  # side of the crops from each of these steps on; a batch keeps its number of pixels
    warmup: int = 200  # steps of linear warm-up, until Adam's second moments are estimated
    epoch: int = 1  # steps for which the learning rate stays constant; the paper changes it once an epoch
    weight_decay: float = 0.0  # of matrices and kernels only; a denoiser of few parameters does not overfit
    betas: tuple[float, ...] = (0.9, 0.999)  # PyTorch's defaults
    clip: float = 1.0  # maximum norm of the gradient, against single bad batches; 0: no clipping
    batch_norm: str = "batch"  # "batch" (each batch's own statistics), "frozen" (those of the weights it starts with)
    ema: float = 0.999  # decay of the averaged weights, which are the ones kept (timm's warm-up applies); 0: no average

    # Machine and bookkeeping
    precision: str = "auto"  # "auto" (by device), "float32", "bfloat16" or "float16"
    validate_every: int = 500  # steps
    checkpoint_every: int = 250  # steps: what a crash costs at most
    workers: int = -1  # processes that prepare batches; -1: by the machine
    seed: int = 0

    def restarts_before(self, step: int) -> int:
        """Number of warm restarts that have come at a step: 0 before the first."""
        return bisect_right(self.restarts, step)

    def crop_stages(self) -> list[CropStage]:
        """The parts of the training with crops of one size, in order. A batch has about the same pixels in each."""
        stages = [CropStage(0, 0, self.crop, self.batch_size)]
        for first_step, crop in zip(self.grow_at, self.grow_to, strict=True):
            last = stages[-1]
            position = last.first_position + (first_step - last.first_step) * last.batch_size
            batch_size = max(1, round(self.batch_size * (self.crop / crop) ** 2))
            stages.append(CropStage(first_step, position, crop, batch_size))
        return stages

    def batch_positions(self, step: int) -> range:
        """Positions of the crops that form the batch of a step. A position numbers a crop in the whole training."""
        stage = [s for s in self.crop_stages() if s.first_step <= step][-1]
        first = stage.first_position + (step - stage.first_step) * stage.batch_size
        return range(first, first + stage.batch_size)

    def locate(self, position: int) -> tuple[int, int]:
        """(step, side in pixels) of the crop at a position: the inverse of `batch_positions`."""
        stage = [s for s in self.crop_stages() if s.first_position <= position][-1]
        return stage.first_step + (position - stage.first_position) // stage.batch_size, stage.crop

    @property
    def level(self) -> float | None:
        """The one noise level that is trained for, or None for a range."""
        return self.sigma[0] if self.sigma[0] == self.sigma[1] else None

    def __post_init__(self):
        for field in fields(self):
            if get_origin(field.type) is tuple:  # lists come from YAML and JSON
                object.__setattr__(self, field.name, tuple(getattr(self, field.name)))
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise KitError(f"training option {name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        for names, (low, high) in RANGES.items():
            for name in names.split():
                value = getattr(self, name)
                if not low <= value <= high or not math.isfinite(value):
                    upper = f" to {high}" if high < math.inf else " up"
                    raise KitError(f"training option {name} is from {low}{upper}, not {value!r}")
        if len(self.sigma) != 2 or not 0 <= self.sigma[0] <= self.sigma[1]:
            raise KitError(f"training option sigma is two levels from 0 up, the lower first, not {self.sigma}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise KitError(f"training option betas is two numbers from 0 to below 1, not {self.betas}")
        if list(self.restarts) != sorted({*self.restarts}) or min(self.restarts, default=math.inf) <= self.warmup:
            raise KitError(f"training option restarts is rising steps after the warm-up, not {self.restarts}")
        if len(self.restart_lr) != len(self.restarts) or not all(lr > 0 for lr in self.restart_lr):
            raise KitError("training option restart_lr is a learning rate above 0 for each of the restarts")
        if len(self.restart_drawn) not in (0, len(self.restarts)) or not all(0 <= s <= 1 for s in self.restart_drawn):
            raise KitError("training option restart_drawn is empty, or a share from 0 to 1 for each of the restarts")
        if list(self.grow_at) != sorted({*self.grow_at}) or min(self.grow_at, default=1) < 1:
            raise KitError(f"training option grow_at is rising steps from 1 up, not {self.grow_at}")
        if len(self.grow_to) != len(self.grow_at) or min(self.grow_to, default=16) < 16:
            raise KitError(
                f"training option grow_to is a side of at least 16 pixels for each step of grow_at, not {self.grow_to}"
            )


def has_type(kind: Any, value: Any) -> bool:
    """Whether a value from YAML or a caller has a field's type; whole numbers are numbers, too."""
    if get_origin(kind) is tuple:
        element = get_args(kind)[0]
        return isinstance(value, list | tuple) and all(has_type(element, v) and finite(v) for v in value)
    return type(value) in {float: (int, float), tuple: (list, tuple)}.get(kind, (kind,))


def finite(value: Any) -> bool:
    """Whether a value is no number, or one that is finite and not absurdly large."""
    return not isinstance(value, int | float) or abs(value) < 1e18


def type_words(kind: Any) -> str:
    """A field's type in words, for messages."""
    if get_origin(kind) is tuple:
        return f"a list, each {type_words(get_args(kind)[0])}"
    return WORDS.get(kind, kind.__name__)


def typed(cls: type, values: Any, where: str) -> Any:
    """`cls(**values)` for a dataclass.

    Args:
        cls: the dataclass.
        values: keys and values, such as YAML gives them.
        where: what they belong to, for messages.
    Returns:
        An instance of `cls`; lists become tuples.
    Raises:
        KitError: for an unknown key or a value of another type, by name; and what `cls` raises.
    """
    if not isinstance(values, dict):
        raise KitError(f"{where} should hold keys and values")
    types = {f.name: f.type for f in fields(cls)}
    given = {}
    for key, value in values.items():
        if key not in types:
            raise KitError(f"{where}: unknown key {key!r}; known are: {', '.join(types)}")
        if not has_type(types[key], value):
            hint = " (YAML needs a decimal point: 1.0e-3)" if types[key] is float and isinstance(value, str) else ""
            raise KitError(f"{where}: {key} should be {type_words(types[key])}, not {value!r}{hint}")
        given[key] = tuple(value) if isinstance(value, list) else value
    return cls(**given)
