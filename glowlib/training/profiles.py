"""Profiles: one typed configuration, one YAML file each in profiles/, unknown keys refused."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import yaml

from ..errors import KitError
from ..networks import require_known
from .config import TrainingConfig, typed

FOLDER = Path(__file__).with_name("profiles")


@dataclass(frozen=True)
class Profile:
    """What one run of the kit does."""

    name: str
    datasets: tuple = ()  # test sets, by name
    sigmas: tuple = (10, 30, 50)
    protocols: tuple = ("float",)  # of the noise
    seeds: tuple = (0,)
    methods: tuple = ()  # shipped models and classical methods, by name
    tile: int = 0  # side of the tiles that the study scores with, pixels; 0: chosen for each network
    centre_crops: dict = field(default_factory=dict)  # data set -> side of the central crop that the study scores
    comparisons: tuple = ()  # pairs of models that the study compares; the first is its primary test
    notebooks: tuple = ()  # what `make reproduce` runs
    training: TrainingConfig = field(default_factory=TrainingConfig)
    fine_tuning: dict = field(default_factory=dict)  # what is other when a trained model is trained further
    models: dict = field(default_factory=dict)  # name of a model to train -> {"network": …, "training": {…}, options}


def list_profiles():
    """Names of the profiles that come with the kit."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_profile(name_or_path):
    """A `Profile`, by the name of one that comes with the kit or the path of a YAML file."""
    path = Path(str(name_or_path))
    if path.suffix not in (".yaml", ".yml"):
        if str(name_or_path) not in list_profiles():
            raise KitError(f"unknown profile {str(name_or_path)!r}; known are: {', '.join(list_profiles())}")
        path = FOLDER / f"{name_or_path}.yaml"
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise KitError(f"cannot read the profile {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(values or {}, dict):
        raise KitError(f"{path.name} should hold keys and values")
    values = {"name": path.name.rsplit(".", 1)[0], **(values or {})}
    values["training"] = typed(TrainingConfig, values.get("training", {}), f"{path.name}, training")
    profile = typed(Profile, values, path.name)
    common = asdict(profile.training)  # a section says what is other there
    typed(TrainingConfig, {**common, **profile.fine_tuning}, f"{path.name}, fine_tuning")
    for name, options in profile.models.items():
        if not isinstance(options, dict) or "network" not in options:
            raise KitError(f"{path.name}, model {name}: it needs a network and may have options of create_model")
        where, given = f"{path.name}, model {name}, training", options.get("training", {})
        typed(TrainingConfig, {**common, **given} if isinstance(given, dict) else given, where)
    return profile


def resolve_model(profile, model):
    """The name of the model that `model` means in a profile: a name in its list, or a network that one there is of.

    Raises KitError for an unknown name, and for a network that several models are of.
    """
    if model in profile.models:
        return model
    found = [name for name, options in profile.models.items() if options["network"] == model]
    if not found:
        require_known("model to train", model, list(profile.models))
    if len(found) > 1:
        raise KitError(f"{model!r} means several models: {', '.join(found)}; name one")
    return found[0]


def plan(profile, model, start=None, **changes):
    """(name, network, options, recipe) of the model that `model` means in a profile.

    model: as for `resolve_model`. start: whether it is trained further, by the profile's recipe for that. changes:
    fields of `TrainingConfig`; those that are None are ignored. Raises KitError for values out of range, too.
    """
    key = resolve_model(profile, model)
    options = dict(profile.models[key])
    given = {**options.pop("training", {}), **(profile.fine_tuning if start else {})}
    given |= {k: v for k, v in changes.items() if v is not None}
    recipe = replace(profile.training, **given)
    name = key if recipe.level is None else f"{key}-sigma{recipe.level:g}"
    return name, options.pop("network"), options, recipe
