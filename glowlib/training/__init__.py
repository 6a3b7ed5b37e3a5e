"""Training: `train` one model of a profile, resumable anywhere; `python -m glowlib.training` is its command.

In reading order: config.py (a recipe), profiles.py and profiles/ (recipes as YAML files), optim.py (loss, optimiser,
learning rate), state.py (what a checkpoint holds), step.py (one step), loop.py (the training), run_folder.py (lock,
checkpoints, log, exported weights), distributed.py (several processes), estimate.py (what a training will take),
sweep.py (many trainings in time slices).

Profiles are here because a training is made from one; experiments/ reads the rest of them.
"""

from .config import TrainingConfig
from .loop import open_data, train, validate
from .profiles import Profile, list_profiles, load_profile, plan, resolve_model

__all__ = [
    "Profile",
    "TrainingConfig",
    "list_profiles",
    "load_profile",
    "open_data",
    "plan",
    "resolve_model",
    "train",
    "validate",
]
