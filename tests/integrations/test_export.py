"""Exported files restore as the network does, from a fresh process and after use, in each runtime."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from glowlib import KitError, denoise, load_pretrained
from glowlib.__main__ import main
from glowlib.integrations import backends
from glowlib.integrations import export as exporting
from glowlib.integrations.backends import ExportedModel, load_exported
from glowlib.integrations.export import OfTiles, example_inputs, export, export_program

TILE = 64
# The published scale of attention, 8, would make a step of the softmax over random weights: rounding is not small then.
NO_STEP = {"qk_scale": None}
CASES = {
    "sunet": {**NO_STEP, "denoising_head": True, "global_residual": True},
    "gcunet": {"context_fusion": ("mul", "add"), "context_pooling": "avg"},
    "glownet": {
        **NO_STEP,
        "fusion": "rope",
        "attention_reach": 3,
        "noise_normalisation": True,
        "global_residual": True,
    },
    "sglownet": {**NO_STEP, "noise_normalisation": True},
}


def restored(model, inputs):
    with torch.no_grad():
        return OfTiles(model)(*inputs)


@pytest.fixture(scope="module", params=[(case, reduced) for case in CASES for reduced in (False, True)], ids=str)
def exported(request, build, tmp_path_factory):
    """(network, path of its .onnx, path of its .pt2), exported after use."""
    pytest.importorskip("onnxscript", reason="needs the extra export: make test EXTRAS=1")
    pytest.importorskip("onnxruntime", reason="needs the extra export: make test EXTRAS=1")
    case, reduced = request.param
    model = build(case, **CASES[case])
    inputs = example_inputs(model, TILE)
    with torch.inference_mode():
        before = OfTiles(model)(*inputs)
    paths = export(model, "nano", tmp_path_factory.mktemp("exported") / "new", TILE, reduced)
    assert torch.equal(restored(model, inputs), before)  # and the network still works
    return model, *paths


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_file_restores_as_the_network_does(backend, batch_size, exported, request):
    request.getfixturevalue(backend)
    model, path, _ = exported
    loaded, inputs = load_exported(path, backend), example_inputs(model, TILE, batch_size)
    assert (loaded.name, loaded.config, loaded.tile) == (model.name, model.config, TILE)
    assert (loaded(*inputs) - restored(model, inputs)).abs().max() < 1e-4


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_program_restores_as_the_network_does(batch_size, exported):
    model, _, path = exported
    extra = {"glowlib": ""}
    program, inputs = torch.export.load(path, extra_files=extra), example_inputs(model, TILE, batch_size)
    assert json.loads(extra["glowlib"])["tile"] == TILE
    assert (program.module()(*inputs) - restored(model, inputs)).abs().max() < 1e-4


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("size", [(100, 130), (64, 64), (40, 90), (17, 31)], ids=str)
def test_denoise_tiles_around_a_file(size, backend, exported, photograph, request):
    """As around the network, with tiles of the same size; smaller images are padded."""
    request.getfixturevalue(backend)
    model, path, _ = exported
    image = np.resize(photograph, (130, 130, 3))[: size[0], : size[1]]
    by_file = denoise(load_exported(path, backend), image)
    assert by_file.shape == image.shape
    assert by_file.dtype == np.uint8
    if min(size) >= TILE and not model.config.noise_normalisation:  # else σ may be estimated on other pixels
        by_network = denoise(model, image, tile=TILE)
        assert np.abs(by_file.astype(int) - by_network).max() <= 1


def test_a_level_may_be_told_or_estimated(exported, batch):
    model, path, _ = exported
    loaded, x = load_exported(path), batch(TILE, TILE, number=2)
    with torch.no_grad():
        assert torch.allclose(loaded(x), model(x), atol=1e-4)
        if model.config.noise_normalisation:
            assert torch.allclose(loaded(x, sigma=20), model(x, sigma=20), atol=1e-4)
            assert not torch.allclose(loaded(x, sigma=20), loaded(x, sigma=60), atol=1e-3)
        else:
            with pytest.raises(KitError, match="leave sigma out"):
                loaded(x, sigma=20)


def test_a_file_names_its_inputs(exported, onnxruntime):
    model, path, _ = exported
    session = onnxruntime.InferenceSession(path)
    names = ["image", "sigma"] if model.config.noise_normalisation else ["image"]
    assert [node.name for node in session.get_inputs()] == names
    assert session.get_inputs()[0].shape[1:] == [3, TILE, TILE]
    assert [node.name for node in session.get_outputs()] == ["restored"]


def test_larger_tiles_are_refused(exported, batch):
    with pytest.raises(KitError, match="tiles of 64×64 pixels, not 65×64"):
        load_exported(exported[1])(batch(65, 64))


def test_the_command_exports_a_shipped_model_from_a_fresh_process(onnxruntime, tmp_path):
    command = [sys.executable, "-m", "glowlib", "export", "--weights", "gcunet-small", "--tile", "32", "--out"]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()[-2:]
    assert first.startswith(f"{tmp_path / 'gcunet-small-32.onnx'} (")
    assert second.startswith(f"{tmp_path / 'gcunet-small-32.pt2'} (")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gcunet-small-32.onnx", "gcunet-small-32.pt2"]
    model, inputs = load_pretrained("gcunet-small"), (torch.rand(1, 3, 32, 32),)
    assert (load_exported(tmp_path / "gcunet-small-32.onnx")(*inputs) - restored(model, inputs)).abs().max() < 1e-4


# --- without the extras


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("network", CASES)
def test_the_graph_is_the_networks(network, reduced, build):
    """torch.export alone, which needs no extra: for any batch, with the level as an input."""
    model = build(network, **CASES[network])
    program = export_program(model, 32, reduced).module()
    for number in (1, 3):
        inputs = example_inputs(model, 32, number)
        assert (program(*inputs) - restored(model, inputs)).abs().max() < 1e-4


@pytest.mark.parametrize("tile", [0, -16, 8, 24, 40])
def test_a_tile_that_needs_padding_is_refused(tile, build):
    with pytest.raises(KitError, match=f"a multiple of 16 pixels, not {tile}"):
        export_program(build("gcunet"), tile)


def test_a_file_that_differs_is_refused(build, tmp_path, monkeypatch, onnxruntime):
    monkeypatch.setattr(exporting, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(KitError, match="differs from the network by nan"):
        export(build("gcunet"), "x", tmp_path, 32)


@pytest.mark.parametrize("package", ["onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(package, monkeypatch, tmp_path, capsys):
    for name in ("onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    with pytest.raises(SystemExit) as stop:
        main(["export", "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert f"needs the package {package}: pip install glowlib[export]" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("backend", backends.BACKENDS)
def test_a_missing_backend_is_named(backend, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, backend, None)
    path = tmp_path / "x.onnx"
    path.touch()
    with pytest.raises(KitError, match=rf"{backend} is not installed: pip install glowlib\[(export|openvino)\]"):
        load_exported(path, backend)


def test_other_files_are_refused(tmp_path, onnxruntime, openvino):
    with pytest.raises(KitError, match="unknown backend 'tensorrt'; known are: onnxruntime, openvino"):
        load_exported("x.onnx", "tensorrt")
    with pytest.raises(KitError, match="there is no file"):
        load_exported(tmp_path / "x.onnx")
    (tmp_path / "x.onnx").write_bytes(b"not a model")
    for backend in backends.BACKENDS:
        with pytest.raises(KitError, match="is not a file that python -m glowlib export wrote") as caught:
            load_exported(tmp_path / "x.onnx", backend)
        assert "\n" not in str(caught.value)


def test_a_runtime_sees_whole_tiles_of_float32(build):
    """Smaller tiles are padded and cut again; grey and double are converted there and back."""
    config = vars(build("gcunet").config)
    seen = []

    def run(arrays):
        seen.append(arrays)
        return arrays[0] + 1

    model = ExportedModel(run, {"network": "gcunet", "options": config, "tile": 32})
    x = torch.rand(2, 1, 20, 32, dtype=torch.float64)
    y = model(x)
    assert seen[0][0].shape == (2, 3, 32, 32)
    assert seen[0][0].dtype == np.float32
    assert (y.shape, y.dtype) == ((2, 3, 20, 32), torch.float64)
    assert torch.allclose(y, x + 1, atol=1e-6)
    assert not any(module.training for module in model.modules())
