"""Profiles: one typed configuration, one YAML file each in profiles/, unknown keys refused."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..data.noise import PROTOCOLS
from ..errors import KitError
from ..files import user_path
from ..networks import NETWORKS, require_known
from .config import TrainingConfig, typed

FOLDER = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Profile:
    """One configuration of the kit: what is trained, and what is evaluated."""

    name: str
    datasets: tuple[str, ...] = ()  # test sets
    sigmas: tuple[float, ...] = (10, 30, 50)  # test noise levels: the paper's
    set_sigmas: dict = field(default_factory=dict)  # data set -> its test noise levels, where they are not `sigmas`
    protocols: tuple[str, ...] = ("float",)  # of the noise
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = ()  # shipped models and classical methods
    tile: int = 0  # side of the tiles that the study scores with, pixels; 0: chosen for each network
    centre_crops: dict = field(default_factory=dict)  # data set -> side of the central crop that is scored
    comparisons: tuple = ()  # pairs of models that the study compares; the first is its primary test
    notebooks: tuple[str, ...] = ()  # that `make reproduce` runs
    training: TrainingConfig = field(default_factory=TrainingConfig)
    fine_tuning: dict = field(default_factory=dict)  # fields of `training` that differ when a trained model is tuned
    models: dict = field(default_factory=dict)  # name of a model to train -> {"network": …, "training": {…}, options}

    def sigmas_of(self, dataset: str) -> tuple[float, ...]:
        """The noise levels that a data set is scored at."""
        return tuple(self.set_sigmas.get(dataset, self.sigmas))


def list_profiles() -> list[str]:
    """Names of the profiles that come with the kit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def require_file_name(kind: str, name: Any, where: str) -> None:
    """Refuse a name that could not be the name of one folder: names from YAML become parts of paths."""
    known = isinstance(name, str) and name.isprintable() and name.strip(". ") and not {*name} & {*"/\\:"}
    if not known or len(name.encode()) > 100:
        raise KitError(
            f"{where}: {name!r} cannot name a {kind}: give it letters and digits, no separators, 100 bytes at most"
        )


def load_profile(name_or_path: str | Path) -> Profile:
    """Read a profile.

    Args:
        name_or_path: a name of `list_profiles`, or the path of a YAML file.
    Raises:
        KitError: for an unknown name, an unreadable file, an unknown key, a value that does not fit, or a name of a
            profile or model that holds path separators.
    """
    path = user_path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in list_profiles():
            raise KitError(f"unknown profile {str(name_or_path)!r}; known are: {', '.join(list_profiles())}")
        path = FOLDER / f"{name_or_path}.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise KitError(f"cannot read the profile {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(values or {}, dict):
        raise KitError(f"{path.name} should hold keys and values")
    values = {"name": path.stem, **(values or {})}
    values["training"] = typed(TrainingConfig, values.get("training", {}), f"{path.name}, training")
    profile = typed(Profile, values, path.name)
    require_file_name("profile", profile.name, path.name)
    check_evaluation(profile, path.name)
    recipe = asdict(profile.training)  # fine_tuning and each model's training override parts of it
    typed(TrainingConfig, {**recipe, **profile.fine_tuning}, f"{path.name}, fine_tuning")
    for name, options in profile.models.items():
        require_file_name("model", name, path.name)
        if not isinstance(options, dict) or not isinstance(options.get("network"), str):
            raise KitError(f"{path.name}, model {name}: it needs a network and may have options of create_model")
        require_known("network", options["network"], list(NETWORKS))
        where, given = f"{path.name}, model {name}, training", options.get("training", {})
        typed(TrainingConfig, {**recipe, **given} if isinstance(given, dict) else given, where)
    return profile


def check_evaluation(profile: Profile, where: str) -> None:
    """Refuse values that nothing could be scored with."""
    rules = {
        "sigmas": ("noise levels from 0 up", all(sigma >= 0 for sigma in profile.sigmas)),
        "set_sigmas": (
            "a list of noise levels from 0 up for each data set",
            all(isinstance(levels, list) and levels for levels in profile.set_sigmas.values())
            and all(type(s) in (int, float) and s >= 0 for levels in profile.set_sigmas.values() for s in levels),
        ),
        "protocols": (f"some of {', '.join(PROTOCOLS)}", set(profile.protocols) <= set(PROTOCOLS)),
        "seeds": ("whole numbers from 0 up", all(seed >= 0 for seed in profile.seeds)),
        "tile": ("0, or a side of at least 16 pixels", profile.tile == 0 or profile.tile >= 16),
        "centre_crops": (
            "a side of at least 16 pixels for each data set",
            all(type(side) is int and side >= 16 for side in profile.centre_crops.values()),
        ),
        "comparisons": (
            "pairs of models of the profile",
            all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in profile.comparisons)
            and {name for pair in profile.comparisons for name in pair} <= set(profile.models),
        ),
    }
    for name, (rule, holds) in rules.items():
        if not holds:
            raise KitError(f"{where}: {name} should be {rule}, not {getattr(profile, name)!r}")


def resolve_model(profile: Profile, model: str) -> str:
    """Resolve `model` to a model of the profile: its name, or its network if only one model has that network.

    Raises:
        KitError: for an unknown name, and for a network that several models have.
    """
    if model in profile.models:
        return model
    found = [name for name, options in profile.models.items() if options["network"] == model]
    if not found:
        require_known("model to train", model, list(profile.models))
    if len(found) > 1:
        raise KitError(f"{model!r} means several models: {', '.join(found)}; name one")
    return found[0]


def plan(
    profile: Profile, model: str, start: str | Path | None = None, **changes: Any
) -> tuple[str, str, dict, TrainingConfig]:
    """What is trained for a model of a profile.

    Args:
        profile: from `load_profile`.
        model: see `resolve_model`.
        start: trained weights to begin with; if given, the profile's `fine_tuning` applies.
        changes: fields of `TrainingConfig` that replace the profile's; those that are None are ignored.
    Returns:
        (name of the run, name of the network, its options, its recipe).
    Raises:
        KitError: for an unknown model, an unknown field, values out of range, or frozen statistics without `start`.
    """
    key = resolve_model(profile, model)
    options = dict(profile.models[key])
    given = {**options.pop("training", {}), **(profile.fine_tuning if start else {})}
    given |= {k: v for k, v in changes.items() if v is not None}
    recipe = typed(TrainingConfig, {**asdict(profile.training), **given}, "training options")
    if recipe.batch_norm == "frozen" and not start:
        raise KitError("batch_norm frozen keeps the statistics of trained weights: give them with --from")
    name = key if recipe.level is None else f"{key}-sigma{recipe.level:g}"
    return name, options.pop("network"), options, recipe
