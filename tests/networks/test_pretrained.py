"""Trained networks are opened, whoever wrote them, and nothing in a file is run."""

import hashlib
import http.server
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import fields
from pathlib import Path

import gdown
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from glowlib.errors import KitError
from glowlib.files import shipped_folder
from glowlib.networks import convert, create_model, pretrained
from glowlib.networks.config import ModelConfig
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


def compress(path, tensor):
    """What torch.save writes, with its parts compressed: a small file that takes much memory to open."""
    stored = path.with_suffix(".stored")
    torch.save({"output.weight": tensor}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))


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
    "more-blocks.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="gcunet", options={"depths": [10**5, 1, 1, 1]})),
        "more blocks than the checkpoint has tensors",
    ),
    "wide.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="gcunet", options={"embed_dim": 10**5})),
        r"missing, but a gcunet like this has \(100000, 3, 3, 3\)",
    ),
    "overflow.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="sunet", options={"embed_dim": 10**40})),
        "does not hold the network",
    ),
    "scale.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="sunet", options={"qk_scale": float("nan")})),
        "qk_scale must be None or a finite number",
    ),
    "word.safetensors": (
        lambda path: save_file(WEIGHTS, path, described(network="sunet", options={"qk_scale": "8"})),
        "does not hold the network",
    ),
    "nested.safetensors": (lambda path: save_file(WEIGHTS, path, {"glowlib": "[" * 10**5}), "nested.safetensors"),
    "broken.safetensors": (lambda path: save_file(WEIGHTS, path, {"glowlib": "{"}), "broken.safetensors"),
    "other-key.pth": (
        lambda path: torch.save({"generator": WEIGHTS, "epoch": 1}, path),
        "other-key.pth: .*found 'generator', 'epoch'",
    ),
    "claims.pth": (
        lambda path: torch.save({"output.weight": torch.zeros(1).expand(3, 10**6, 3, 3)}, path),
        "claim more values than the file holds",
    ),
    "shared.pth": (
        lambda path: torch.save(dict.fromkeys(map(str, range(100)), torch.zeros(10**4)), path),
        "claim more values than the file holds",
    ),
    "shapes.pth": (
        lambda path: torch.save({"output.weight": torch.zeros(3, 16, 3, 3, device="meta")}, path),
        "claim more values than the file holds",
    ),
    "compressed.pth": (lambda path: compress(path, torch.zeros(10**6)), "its parts are compressed"),
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
        ("runs/model.pth", "there is no file"),
        ("x" * 5000, "unknown shipped model"),
        ("a\0b", "unknown shipped model"),
        ("", "cannot read"),
        (".", "cannot read"),
    ],
)
def test_unknown_names_and_missing_files(name, message, shipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KitError, match=message) as caught:
        load_pretrained(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("claim", [{"embed_dim": 4000}, {"window_size": 10**6}, {"depths": [2] * 4}])
def test_no_memory_is_taken_for_what_a_description_claims(claim, shipped, monkeypatch):
    """Built on the meta device only, whatever the description of a whole file claims."""
    path, model = shipped
    devices = []

    def create(name, **options):
        devices.append(torch.get_default_device().type)
        return create_model(name, **options)

    monkeypatch.setattr(convert, "create_model", create)
    tensors = load_file(path)
    save_file(tensors, path, described(network=model.name, options={**vars(model.config), **claim}))
    with pytest.raises(KitError, match="model.safetensors: it does not hold the network that its description names"):
        load_pretrained(path)
    assert devices in ([], ["meta"])
    save_file(tensors, path, described(network=model.name, options=vars(model.config)))
    load_pretrained(path)
    assert devices[-2:] == ["meta", "cpu"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_weights_that_are_not_finite(value, shipped):
    path, model = shipped
    tensors = load_file(path)
    tensors["norm.weight"][3] = value
    save_file(tensors, path, described(network=model.name, options=vars(model.config)))
    with pytest.raises(KitError, match=f"{re.escape(str(path))}: .*norm.weight holds NaN or infinite values"):
        load_pretrained(path)


def test_hints_may_repeat_a_description_and_not_contradict_it(shipped):
    path, model = shipped
    assert load_pretrained(path, global_residual=True, qk_scale=None).config == model.config
    with pytest.raises(KitError, match="qk_scale is None, not 8"):
        load_pretrained(path, qk_scale=8)
    with pytest.raises(KitError, match="unknown hint 'residual'"):
        load_pretrained(path, residual=True)


def test_a_file_without_its_description_needs_hints(shipped):
    """Saved again by a program that drops what stood beside the tensors."""
    path, model = shipped
    save_file(load_file(path), path)
    hints = {"global_residual": True, "noise_normalisation": False, "training_size": 64, "attention_reach": None}
    with pytest.raises(KitError, match=f"no tensor shows {', '.join(hints)}, qk_scale:"):
        load_pretrained(path)
    with pytest.raises(KitError, match="no tensor shows qk_scale:"):
        load_pretrained(path, **hints)
    loaded = load_pretrained(path, **hints, qk_scale=None)
    assert vars(loaded.config) == vars(model.config)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_other_bytes_is_a_kit_error_or_loads(data, whole_files, tmp_path):
    """One line that names the file, or a network of finite weights."""
    kind = data.draw(st.sampled_from(sorted(whole_files)))
    content = bytearray(whole_files[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content), 3000) - 1) | st.integers(-3000, -1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f"changed.{kind}"
    path.write_bytes(content)
    message, finite = str(path), True
    try:
        finite = all(t.isfinite().all() for t in load_pretrained(path).state_dict().values())
    except KitError as error:
        message = str(error)
    assert finite
    assert "\n" not in message
    assert str(path) in message


@pytest.fixture
def whole_files(shipped, originals, tmp_path):
    """{suffix: bytes} of files that open."""
    torch.save(originals["gcunet"], tmp_path / "whole.pth")
    return {"safetensors": shipped[0].read_bytes(), "pth": (tmp_path / "whole.pth").read_bytes()}


OPTION_VALUES = st.none() | st.booleans() | st.integers(-3, 10**12) | st.floats() | st.text(max_size=4)
OPTION_VALUES |= st.lists(st.integers(-1, 40), max_size=5)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from([f.name for f in fields(ModelConfig)]), OPTION_VALUES, min_size=1))
def test_any_description_is_a_kit_error_or_loads(changes, shipped, batch):
    """And what loads also runs."""
    path, model = shipped
    tensors = load_file(path)
    save_file(tensors, path, described(network=model.name, options={**vars(model.config), **changes}))
    message = str(path)
    try:
        loaded = load_pretrained(path)
        with torch.no_grad():
            loaded(batch(16, 16))
    except KitError as error:
        message = str(error)
    assert "\n" not in message
    assert str(path) in message


# --- the Hugging Face Hub, played by a server of this machine


class Hub(http.server.BaseHTTPRequestHandler):
    """GET and HEAD of owner/name/resolve/main/FILE as the Hub answers them; other repositories are unknown."""

    files = {}

    def do_GET(self):
        owner, name, _, _, file = self.path.strip("/").split("/", 4)
        content = self.files.get(f"{owner}/{name}/{file}")
        self.send_response(200 if content is not None else 404)
        if content is None:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


LOAD = """
import sys, torch, glowlib
for name in sys.argv[1:]:
    try:
        model = glowlib.load_pretrained(name)
        print(model.name, model.config.global_residual, model.output.weight.double().sum().item())
    except glowlib.KitError as error:
        print("KitError", error)
"""


@pytest.fixture
def load_from_hub(tmp_path, monkeypatch, shipped):
    """load_from_hub(files, *names): what loading them prints; files: {path: bytes} of the server, None: offline."""
    pytest.importorskip("huggingface_hub", reason="needs the hub extra: pip install glowlib[hub]")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def load(files, *names):
        monkeypatch.setattr(Hub, "files", files)
        environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")},
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1" if files is None else "0",
            "PYTHONPATH": str(Path(pretrained.__file__).parents[2]),
        }
        command = [sys.executable, "-c", LOAD, *names]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    yield load
    server.shutdown()
    server.server_close()


def test_loads_from_the_hub(load_from_hub, shipped, tmp_path):
    """By the description in the weights, or by config.json where they have none; anything else is one line."""
    path, model = shipped
    config, weights = path.with_name("config.json").read_bytes(), path.read_bytes()
    total = sum(load_file(path)["output.weight"].double().flatten().tolist())
    save_file(load_file(path), tmp_path / "bare.safetensors")
    bare = (tmp_path / "bare.safetensors").read_bytes()
    files = {
        "someone/nano/model.safetensors": weights,
        "someone/nano/config.json": config,
        "someone/bare-1.0/model.safetensors": bare,
        "someone/bare-1.0/config.json": config,
        "someone/other/model.safetensors": bare,
        "someone/other/config.json": b'{"architectures": ["BertModel"]}',
        "someone/text/model.safetensors": bare,
        "someone/text/config.json": b"\xff",
    }
    names = [*dict.fromkeys(name.rsplit("/", 1)[0] for name in files), "someone/nobody", "some/path/deeper"]
    nano, without, other, text, nobody, deeper = load_from_hub(files, *names)
    for line in (nano, without):
        kind, residual, found = line.split()
        assert (kind, residual) == ("sglownet", "True")
        assert float(found) == pytest.approx(total, rel=1e-6)
    assert "no tensor shows global_residual" in other
    assert "its config.json is not JSON" in text
    assert nobody.startswith(
        "KitError there is no file someone/nobody, and the Hugging Face Hub gave no model.safetensors"
    )
    assert "RepositoryNotFoundError" in nobody
    assert deeper.startswith("KitError there is no file some/path/deeper")
    kept, gone = load_from_hub(None, "someone/nano", "someone/nobody")  # from the cache
    assert kept == nano
    assert gone.startswith("KitError there is no file someone/nobody, and the Hugging Face Hub")


def test_the_hub_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(KitError, match=r"pip install glowlib\[hub\]"):
        load_pretrained("someone/nano")


# --- download_pretrained: no network is used


def weights_of_the_paper():
    """What torch.save makes of a state dict."""
    file = io.BytesIO()
    torch.save({"state_dict": {"module.x": torch.zeros(3)}}, file)
    return file.getvalue()


def fake_gdown(content, calls):
    def download(id=None, output=None, quiet=False):
        calls.append(id)
        Path(output).write_bytes(content)
        return output

    return download


def test_download_is_recorded_and_checked(tmp_path, monkeypatch, capsys):
    calls, content = [], weights_of_the_paper()
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
    monkeypatch.setattr(gdown, "download", fake_gdown(weights_of_the_paper(), []))
    assert download_pretrained() == tmp_path / "pretrained" / "sglownet-original.pth"


def raises_halfway(id=None, output=None, quiet=False):
    Path(output).write_bytes(b"half")
    raise ConnectionError("no route\nto host")


def returns_nothing(id=None, output=None, quiet=False):
    return None


def leaves_half(id=None, output=None, quiet=False):
    Path(output).write_bytes(b"half")


def gives_a_page(id=None, output=None, quiet=False):
    Path(output).write_bytes(b"<html>The quota of this file is used up</html>")
    return output


@pytest.mark.parametrize("download", [raises_halfway, returns_nothing, leaves_half, gives_a_page])
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
    path, record = tmp_path / "sglownet-original.pth", tmp_path / "sglownet-original.pth.sha256"
    path.write_bytes(b"<html>")
    with pytest.raises(KitError, match="no weights file"):
        download_pretrained(tmp_path)
    assert not record.exists()
    content = weights_of_the_paper()
    path.write_bytes(content)
    assert download_pretrained(tmp_path).read_bytes() == content
    assert record.read_text().startswith(hashlib.sha256(content).hexdigest())
    record.write_bytes(b"\xff")
    with pytest.raises(KitError, match="has changed"):
        download_pretrained(tmp_path)


@pytest.mark.parametrize("name", [3, None, ["sunet-small"]])
def test_what_is_no_name_is_refused(name):
    with pytest.raises(KitError, match="expected the name of a model or the path of a weights file"):
        load_pretrained(name)


def test_the_suffix_may_have_capitals(tmp_path):
    path = tmp_path / "MODEL.SAFETENSORS"
    path.write_bytes((shipped_folder() / "gcunet-small" / "model.safetensors").read_bytes())
    assert load_pretrained(path).name == "gcunet"


@pytest.mark.parametrize("key", ["params", "model_state_dict"])
def test_a_refusal_names_where_the_weights_are(key, tmp_path, nano):
    torch.save({key: create_model("sunet", **nano).state_dict()}, tmp_path / "last.pt")
    with pytest.raises(KitError, match=rf"without a description.*weights under '{key}'"):
        load_pretrained(tmp_path / "last.pt")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(KitError, match="model.safetensors beside it has the description"):
        load_pretrained(tmp_path / "last.pt")
