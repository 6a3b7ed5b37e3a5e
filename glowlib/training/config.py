"""A training recipe as data, and how such data is read: unknown keys and values out of range are refused, by name."""

import math
from bisect import bisect_right
from dataclasses import dataclass, fields

from ..errors import KitError

# What the numbers of a recipe may be.
RANGES = {
    "steps batch_size hold_out epoch validate_every checkpoint_every": (1, math.inf),
    "crop": (16, math.inf),
    "share_8bit share_grey share_drawn share_permuted share_saturation ema": (0, 1),
    "lr": (1e-12, math.inf),
    "min_lr warmup weight_decay clip seed": (0, math.inf),
    "workers": (-1, math.inf),
}


@dataclass(frozen=True)
class TrainingConfig:
    """A training recipe. Everything that changes the result is here."""

    data: str = "BSD400"  # training set; its last `hold_out` pictures are for validation, never trained on
    hold_out: int = 20
    pairs: str = ""  # folder of the paper's pairs (glowlib pairs), in the data folder; empty: fresh crops and noise
    steps: int = 10_000
    batch_size: int = 16
    crop: int = 64  # side of a training crop, pixels
    sigma: tuple = (5, 50)  # noise level of each crop, uniform in this range; equal ends train for one level
    share_8bit: float = 0.25  # crops noised under the 8bit protocol, so that one model serves both
    share_grey: float = 0.1  # crops made grey, with equal noise in the three channels
    share_drawn: float = 0.0  # crops that are drawn, not photographed: flat areas, ramps, boards, bars, text
    share_permuted: float = 0.0  # crops whose colour channels are put in a random order
    share_saturation: float = 0.0  # crops whose saturation is multiplied by a random factor, 1/2 to 2
    loss: str = "l1"  # "l1" or "charbonnier"
    optimizer: str = "adamw"  # "adamw", "adam", or "muon" (matrices; AdamW for the rest)
    lr: float = 1e-3
    min_lr: float = 1e-6  # where the cosine ends
    restarts: tuple = ()  # steps at which another cosine begins; those beyond `steps` never come
    restart_lr: tuple = ()  # the rate that each of them begins with
    restart_drawn: tuple = ()  # and `share_drawn` from there on; empty: as before
    grow_at: tuple = ()  # steps at which crops become larger and batches smaller, so that a batch keeps its pixels
    grow_to: tuple = ()  # the side of the crops from each of them on
    warmup: int = 200  # steps of linear warm-up
    epoch: int = 1  # steps for which the rate stays the same
    weight_decay: float = 0.0
    betas: tuple = (0.9, 0.999)
    clip: float = 1.0  # gradient norm; 0 switches clipping off
    ema: float = 0.999  # decay of the averaged weights that are kept; timm's warm-up of it applies; 0: no averaging
    precision: str = "auto"  # "auto" (by device), "float32", "bfloat16" or "float16"
    validate_every: int = 500
    checkpoint_every: int = 250
    workers: int = -1  # processes that prepare batches; -1: by the machine
    seed: int = 0

    def part(self, step):
        """How many restarts have come at a step: 0 before the first."""
        return bisect_right(self.restarts, step)

    def stretches(self):
        """Stretches of equal crops: (first step, first position, side of the crops, crops in a batch).

        A position is the number of a crop in the whole training.
        """
        rows, position, step, count = [], 0, 0, self.batch_size
        for start, side in zip((0, *self.grow_at), (self.crop, *self.grow_to), strict=True):
            position, step = position + (start - step) * count, start
            count = max(1, round(self.batch_size * (self.crop / side) ** 2))
            rows.append((step, position, side, count))
        return rows

    def positions(self, step):
        """The positions of the crops that make the batch at a step."""
        first, position, _, count = [row for row in self.stretches() if row[0] <= step][-1]
        position += (step - first) * count
        return range(position, position + count)

    def place(self, position):
        """(step, side) of the crop at a position."""
        first, start, side, count = [row for row in self.stretches() if row[1] <= position][-1]
        return first + (position - start) // count, side

    @property
    def level(self):
        """The one noise level that is trained for, or None for a range."""
        return self.sigma[0] if self.sigma[0] == self.sigma[1] else None

    def __post_init__(self):
        for name in ("sigma", "betas", "restarts", "restart_lr", "restart_drawn", "grow_at", "grow_to"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, known in (
            ("loss", ("l1", "charbonnier")),
            ("optimizer", ("adamw", "adam", "muon")),
            ("precision", ("auto", "float32", "bfloat16", "float16")),
        ):
            if getattr(self, name) not in known:
                raise KitError(f"training option {name} is one of {', '.join(known)}, not {getattr(self, name)!r}")
        for names, (low, high) in RANGES.items():
            for name in names.split():
                if not low <= getattr(self, name) <= high:
                    upper = f" to {high}" if high < math.inf else " up"
                    raise KitError(f"training option {name} is from {low}{upper}, not {getattr(self, name)!r}")
        if len(self.sigma) != 2 or not 0 <= self.sigma[0] <= self.sigma[1]:
            raise KitError(f"training option sigma is two levels from 0 up, the lower first, not {self.sigma}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise KitError(f"training option betas is two numbers from 0 to below 1, not {self.betas}")
        if list(self.restarts) != sorted({*self.restarts} - {*range(self.warmup + 1)}):
            raise KitError(f"training option restarts is rising steps after the warm-up, not {self.restarts}")
        if len(self.restart_lr) != len(self.restarts) or not all(lr > 0 for lr in self.restart_lr):
            raise KitError("training option restart_lr is a rate above 0 for each of the restarts")
        if list(self.grow_at) != sorted(set(self.grow_at)) or len(self.grow_to) != len(self.grow_at):
            raise KitError(
                "training options grow_at and grow_to are rising steps and the side of the crops from each on"
            )
        if any(side < 16 for side in self.grow_to):
            raise KitError(f"training option grow_to holds sides of at least 16 pixels, not {self.grow_to}")
        if self.restart_drawn and len(self.restart_drawn) != len(self.restarts):
            raise KitError("training option restart_drawn is empty, or a share for each of the restarts")


def typed(cls, values, where):
    """`cls(**values)`, refusing unknown keys and values of another type, by name."""
    if not isinstance(values, dict):
        raise KitError(f"{where} should hold keys and values")
    types = {f.name: f.type for f in fields(cls)}
    given = {}
    for key, value in values.items():
        if key not in types:
            raise KitError(f"{where}: unknown key {key!r}; known are: {', '.join(types)}")
        value = tuple(value) if isinstance(value, list) else value
        fits = type(value) in ((int, float) if types[key] is float else (types[key],))
        if not fits:
            hint = " (YAML wants a point in it: 1.0e-3)" if types[key] is float and isinstance(value, str) else ""
            raise KitError(f"{where}: {key} should be {types[key].__name__}, not {value!r}{hint}")
        given[key] = value
    return cls(**given)
