"""Trained networks are opened, whoever wrote them, and nothing in a file is run."""

import hashlib
import json
import os
import pickle
import re
from pathlib import Path

import gdown
import pytest
import torch
from safetensors.torch import save_file

from glowlib.errors import KitError
from glowlib.networks import pretrained
from glowlib.networks.convert import from_original
from glowlib.networks.pretrained import download_pretrained, list_models, load_pretrained
from glowlib.training.run_folder import export


@pytest.fixture
def shipped(tmp_path, monkeypatch, build):
    """A folder of shipped models with one in it, and that one."""
    model = build("sglownet", global_residual=True, qk_scale=None)
    options = {k: v for k, v in vars(model.config).items()}
    folder = tmp_path / "shipped" / "sglownet-nano"
    folder.mkdir(parents=True)
    export(folder, model, {"name": "sglownet-nano", "network": "sglownet", "options": options})
    monkeypatch.setattr(pretrained, "shipped_folder", lambda: tmp_path / "shipped")
    return folder / "model.safetensors", model


def test_loads_a_shipped_name_and_a_file_of_ours(shipped):
    """Stored in half precision, opened in float32, with every option that was written beside the weights."""
    path, model = shipped
    assert list_models().shipped == ["sglownet-nano"]
    assert list_models().networks == ["gcunet", "glownet", "sglownet", "sunet"]
    for source in ("sglownet-nano", path, str(path)):
        loaded = load_pretrained(source)
        assert not loaded.training
        assert loaded.name == "sglownet"
        assert loaded.config == model.config
        for name, tensor in loaded.state_dict().items():
            expected = model.state_dict()[name]
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected.half().to(expected.dtype))


@pytest.mark.parametrize("name", list_models().shipped)
def test_every_shipped_model_restores(name, batch):
    """Noise goes down on a photograph: whatever is shipped is trained, and fits the code that opens it."""
    model = load_pretrained(name)
    clean = batch(96, 128)
    noisy = clean + 50 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (model(noisy) - clean).square().mean()
    assert error < (noisy - clean).square().mean() / 4


def test_the_commands_default_model_is_shipped():
    assert "sglownet-small" in list_models().shipped


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_loads_the_originals_checkpoint(wrapped, legacy, tmp_path, originals, batch):
    """{"epoch", "state_dict", "optimizer"} after data-parallel training, or the state dict alone; old files too."""
    state = {f"module.swin_unet.{name}": tensor for name, tensor in originals["sglownet"].items()}
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([parameter])
    parameter.sum().backward()
    optimizer.step()
    content = {"epoch": 99, "state_dict": state, "optimizer": optimizer.state_dict()} if wrapped else state
    torch.save(content, tmp_path / "best.pth", _use_new_zipfile_serialization=not legacy)
    loaded = load_pretrained(tmp_path / "best.pth", qk_scale=0.5)
    expected = from_original(originals["sglownet"], qk_scale=0.5)
    assert not loaded.training
    assert loaded.config.qk_scale == 0.5
    x = batch(32, 48)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected(x))


class RunsCode:
    """Unpickling this makes a folder: the sign that code in a file was run."""

    def __init__(self, sign):
        self.sign = sign

    def __reduce__(self):
        return os.mkdir, (str(self.sign),)


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, 2))])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
def test_code_in_a_file_is_never_run(write, suffix, tmp_path, originals):
    path, sign = tmp_path / f"weights{suffix}", tmp_path / "code-was-run"
    write({"state_dict": originals["sglownet"], "extra": RunsCode(sign)}, path)
    with pytest.raises(KitError, match="weights") as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)
    assert not sign.exists()
    pickle.loads(pickle.dumps(RunsCode(sign)))  # the file was indeed armed
    assert sign.is_dir()


@pytest.mark.parametrize("keep", [0, 5, 300, 0.5, 0.95, -1])
@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_refuses_a_truncated_file(kind, keep, tmp_path, shipped, originals):
    path = tmp_path / f"cut.{kind}"
    if kind == "pth":
        torch.save({"state_dict": originals["gcunet"]}, path)
        whole = path.read_bytes()
    else:
        whole = shipped[0].read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if 0 < keep < 1 else keep])
    with pytest.raises(KitError, match=re.escape(str(path))) as caught:
        load_pretrained(path)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert not load_pretrained(path).training


def described(**description):
    return {"glowlib": json.dumps(description)}


WEIGHTS = {"output.weight": torch.zeros(3, 16, 3, 3)}
UNFIT = {
    "text.pth": (lambda path: path.write_text("not weights\n"), "no weights file"),
    "text.safetensors": (lambda path: path.write_text("not weights\n"), "not a whole safetensors file"),
    "number.pth": (lambda path: torch.save(3, path), "expected a state dict"),
    "list.pth": (lambda path: torch.save([torch.zeros(1)], path), "expected a state dict"),
    "other.pth": (lambda path: torch.save({"fc.weight": torch.zeros(3, 3)}, path), "output.weight"),
    "other.safetensors": (lambda path: save_file(WEIGHTS, path), "lacks"),
    "missing.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="sunet", options={"training_size": 64})),
        "does not hold the network",
    ),
    "unknown.safetensors": (lambda path: save_file(WEIGHTS, path, described(network="unet", options={})), "unet"),
    "no-network.safetensors": (lambda path: save_file(WEIGHTS, path, described(name="x")), "network"),
    "list.safetensors": (lambda path: save_file(WEIGHTS, path, {"glowlib": "[1]"}), "list.safetensors"),
    "wrong-kind.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="sunet", options={"embed_dim": "16"})),
        "wrong-kind.safetensors",
    ),
    "broken.safetensors": (lambda path: save_file(WEIGHTS, path, {"glowlib": "{"}), "broken.safetensors"),
    "folder.pth": (lambda path: path.mkdir(), "cannot read"),
    "folder.safetensors": (lambda path: path.mkdir(), "folder.safetensors"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_refuses_a_file_of_another_kind(name, tmp_path):
    write, message = UNFIT[name]
    write(tmp_path / name)
    with pytest.raises(KitError, match=message) as caught:
        load_pretrained(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sglownet-nan", "unknown shipped model 'sglownet-nan' .did you mean 'sglownet-nano'.*: sglownet-nano$"),
        ("nowhere.pth", "there is no file nowhere.pth; shipped models are: sglownet-nano"),
        ("no/such/model", "there is no file"),
    ],
)
def test_unknown_names_and_missing_files(name, message, shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match=message) as caught:
        load_pretrained(name)
    assert "\n" not in str(caught.value)


# --- download_pretrained: no network is used


def fake_gdown(content, calls):
    def download(id=None, output=None, quiet=False):
        calls.append(id)
        Path(output).write_bytes(content)
        return output

    return download


def test_download_is_recorded_and_checked(tmp_path, monkeypatch, capsys):
    calls, content = [], b"weights of the paper"
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(gdown, "download", fake_gdown(content, calls))
    path = download_pretrained(tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "sglownet-original.pth"
    assert path.read_bytes() == content
    record = path.with_name(path.name + ".sha256")
    assert record.read_text() == f"{digest}  {path.name}\n"  # as `sha256sum --check` reads it
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, record.name]
    assert digest in capsys.readouterr().out
    assert download_pretrained(path.parent) == path
    assert calls == ["19YrFIHw0todZ5O7c1H0XUOIFkF6V8WU1"]  # the second call found the file
    path.write_bytes(content + b"!")
    with pytest.raises(KitError, match="has changed") as caught:
        download_pretrained(path.parent)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content + b"!"


def test_download_goes_to_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOWLIB_DATA", str(tmp_path))
    monkeypatch.setattr(gdown, "download", fake_gdown(b"weights", []))
    assert download_pretrained() == tmp_path / "pretrained" / "sglownet-original.pth"


def raises_halfway(id=None, output=None, quiet=False):
    Path(output).write_bytes(b"half")
    raise ConnectionError("no route\nto host")


def returns_nothing(id=None, output=None, quiet=False):
    return None


def leaves_half(id=None, output=None, quiet=False):
    Path(output).write_bytes(b"half")


@pytest.mark.parametrize("download", [raises_halfway, returns_nothing, leaves_half])
def test_a_failed_download_says_what_to_do_and_leaves_nothing(download, tmp_path, monkeypatch):
    monkeypatch.setattr(gdown, "download", download)
    with pytest.raises(KitError, match="the download failed") as caught:
        download_pretrained(tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert "https://drive.google.com/file/d/19YrFIHw0todZ5O7c1H0XUOIFkF6V8WU1" in message
    assert str(tmp_path / "sglownet-original.pth") in message
    assert list(tmp_path.iterdir()) == []


def test_a_file_fetched_by_hand_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(gdown, "download", raises_halfway)
    (tmp_path / "sglownet-original.pth").write_bytes(b"by hand")
    assert download_pretrained(tmp_path).read_bytes() == b"by hand"
    assert (tmp_path / "sglownet-original.pth.sha256").read_text().startswith(hashlib.sha256(b"by hand").hexdigest())
