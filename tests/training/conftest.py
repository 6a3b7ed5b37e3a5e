"""What the tests of training share: a data set and a profile so small that a training takes a second."""

import pytest
import yaml
from skimage import data
from tiny import NETWORKS, RECIPE

from glowlib.data.image_files import write_png
from glowlib.files import DATA_VARIABLE
from glowlib.training import loop


@pytest.fixture
def profile(tmp_path, monkeypatch, nano):
    """A profile that trains each nano network on six crops, logging every step; dropped paths included."""
    folder = tmp_path / "data" / "tiny"
    folder.mkdir(parents=True)
    for i in range(6):
        picture = (data.astronaut, data.chelsea, data.coffee)[i % 3]()[40 * i :][:64, 100:164]
        write_png(folder / f"{i}.png", picture)
    monkeypatch.setenv(DATA_VARIABLE, str(folder.parent))
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    options = {**nano, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 2, 2], "drop_path_rate": 0.3, "training_size": 32}
    models = {f"{name}-nano": {"network": name, **options} for name in NETWORKS}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"training": RECIPE, "models": models}))
    return path
