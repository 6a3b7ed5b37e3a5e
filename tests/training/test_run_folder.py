"""The files of a run: exported weights are finite, whatever the network holds."""

import pytest
import torch

from glowlib import load_pretrained
from glowlib.errors import KitError
from glowlib.training.run_folder import export


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "is not finite"), (float("inf"), "is not finite"), (1e5, "exceeds the range of half precision")],
)
@pytest.mark.parametrize("buffer", [False, True])
def test_weights_that_are_not_finite_are_not_exported(value, said, buffer, build, tmp_path):
    net = build("gcunet")
    description = {"network": "gcunet", "options": dict(vars(net.config))}
    export(tmp_path, net, description)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"model.safetensors", "config.json"}
    name = "running_var" if buffer else "output.weight"
    tensor = next(t for n, t in net.state_dict().items() if n.endswith(name))
    with torch.no_grad():
        tensor.flatten()[0] = value
    with pytest.raises(KitError, match=f"{name} {said}.*not exported") as caught:
        export(tmp_path, net, description)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    load_pretrained(tmp_path / "model.safetensors")
