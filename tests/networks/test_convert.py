"""Weights in: the original's outputs to rounding, its checkpoints and ours read back, everything else refused."""

import gzip
import json
import re
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from originals import as_original

from glowlib.errors import KitError
from glowlib.networks import PUBLISHED, convert, create_model
from glowlib.networks.base import parameter_count
from glowlib.networks.convert import from_original
from glowlib.networks.pretrained import list_models, load_pretrained

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = json.loads(gzip.decompress((GOLDENS / "state_dicts.json.gz").read_bytes()))
SMALL = [name for name in CASES if not name.endswith("_full")]
FUSION = {
    None: "cross",
    "CrossAttn": "cross",
    "GatedCrossAttn": "gated",
    "PosEncCrossAttn": "posenc",
    "GatedPosEncCrossAttn": "gated_posenc",
    "RoPEAttn": "rope",
}
NEVER_USED = re.compile(r"(prelu|gc_norm_up|gc_upsample_blocks)\.")
DERIVED = re.compile(r"(relative_position_index|attn_mask)$")


def original_weights(shapes):
    """A state dict of these names and shapes, each tensor drawn from its own name, as for the stored outputs.

    With z standard normal: position tables z/2; variances 1 + |z|/10; means and biases z/10; vectors and d×1×1
    tensors 1 + z/10; other matrices and kernels z/√fan_in. What is derived or counted is no matter: zero.
    """

    def draw(name, shape):
        if DERIVED.search(name) or name.endswith("num_batches_tracked"):
            return torch.zeros(shape, dtype=torch.long)
        z = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
        last = name.rpartition(".")[2]
        if last == "relative_position_bias_table":
            z = z / 2
        elif last == "running_var":
            z = 1 + abs(z) / 10
        elif last.endswith(("bias", "running_mean")):
            z = z / 10
        elif len(shape) == 1 or tuple(shape[1:]) == (1, 1):
            z = 1 + z / 10
        else:
            z = z / np.prod(shape[1:]) ** 0.5
        return torch.tensor(z, dtype=torch.float32).reshape(shape)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def golden_hints(case):
    config = CASES[case]["config"]
    return {"qk_scale": config.get("qk_scale"), "fusion": FUSION[config.get("cross_attn_type")]}


@pytest.fixture(scope="module")
def golden_input():
    return torch.tensor(np.random.default_rng(128).random((2, 3, 128, 128)), dtype=torch.float32)


@pytest.fixture
def on_meta(monkeypatch):
    """Tensors with shapes and no data, for networks of the paper's size; only the drop-path rates have values."""
    monkeypatch.setattr(torch, "linspace", partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("case", SMALL)
def test_original_output(case, golden_input):
    """‖a−b‖/‖b‖ < 1e-5: rounding comes to a few 1e-6, and a wrong LayerNorm epsilon is already beyond."""
    model = from_original(original_weights(CASES[case]["state_dict"]), **golden_hints(case))
    assert not model.training
    with torch.no_grad():
        y = model(golden_input)
    golden = np.load(GOLDENS / f"{case}.npz")
    expected = torch.from_numpy(golden["output"]).double()
    assert ((y[..., ::4, ::4].double() - expected).norm() / expected.norm()).item() < 1e-5
    assert y.double().mean().item() == pytest.approx(golden["mean"].item(), rel=1e-5, abs=1e-5 * golden["std"].item())
    assert y.double().std().item() == pytest.approx(golden["std"].item(), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_every_option_is_read_and_every_name_is_known(case, on_meta):
    """The options come off the shapes; each name of the original is used, derived or one of the never-used."""
    shapes, config = CASES[case]["state_dict"], CASES[case]["config"]
    model = from_original({name: torch.empty(shape) for name, shape in shapes.items()}, **golden_hints(case))
    network = case.split("_")[0]
    assert model.name == network
    found = model.config
    assert found.embed_dim == config["embed_dim"]
    assert found.patch_size == 4
    assert found.depths == tuple(config["depths"])
    assert found.denoising_head == config.get("denoising_head", False)
    assert not found.global_residual
    if network != "gcunet":
        assert found.num_heads == tuple(config["num_heads"])
        assert found.window_size == config["window_size"]
        assert found.training_size == config["img_size"]
        assert found.qk_scale == config["qk_scale"]
    if network != "sunet":
        assert found.context_ratio == config["context_ratio"]
        assert found.context_pooling == config["context_pooling_type"]
        assert found.context_fusion == tuple(t.removeprefix("channel_") for t in config["context_fusion_types"])
    if "cross_attn_type" in config:
        assert found.fusion == FUSION[config["cross_attn_type"]]
    used = {name for name in shapes if not NEVER_USED.match(name) and not DERIVED.search(name)}
    assert set(model.state_dict()) == used
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    unused = [name for name in shapes if NEVER_USED.match(name) and not name.endswith(buffers)]
    assert parameter_count(model) == CASES[case]["parameters"] - sum(np.prod(shapes[n], dtype=int) for n in unused)


@pytest.mark.parametrize(
    ("network", "used"),
    [("sunet", 99_683_720), ("gcunet", 10_616_072), ("glownet", 120_450_940), ("sglownet", 108_899_916)],
)
def test_published_checkpoints_need_no_hints(network, used, on_meta):
    """Names and shapes of the paper's own files give the published configuration, but for what a network ignores."""
    shapes = CASES[f"{network}_full"]["state_dict"]
    model = from_original({f"module.swin_unet.{name}": torch.empty(shape) for name, shape in shapes.items()})
    assert parameter_count(model) == used
    ignored = {"num_heads": model.config.num_heads} if network == "gcunet" else {}
    assert vars(model.config) == vars(PUBLISHED[network]) | ignored


# --- other options than the stored cases': written as the original would, and read back


SWIN = [
    {"patch_size": 2, "qk_scale": 0.5},
    {"patch_size": 4, "training_size": 128},
    {"depths": (1, 1, 1, 1)},
    {"depths": (1, 2, 3, 6), "num_heads": (1, 2, 4, 8)},
    {"depths": (2, 1, 1, 2), "window_size": 8, "training_size": 64},  # the window is shrunk in the deepest stage
    {"depths": (2, 2, 2, 2), "window_size": 8, "training_size": 128},  # it just fits there
    {"depths": (2, 2, 1, 2), "window_size": 16, "training_size": 32, "patch_size": 4},  # shrunk in all four
    {"depths": (2, 2, 1, 2), "window_size": 2, "training_size": 64},
    {"depths": (2, 2, 2, 2), "window_size": 1, "training_size": 32},
    {"embed_dim": 24, "num_heads": (3, 2, 4, 6), "qk_scale": None},
    {"denoising_head": True},
    {"denoising_head": True, "depths": (1, 1, 2, 3), "training_size": 128},
]
CONTEXT = [
    {"context_ratio": 0.3, "context_pooling": "avg"},
    {"context_ratio": 0.0625, "context_fusion": "mul"},
    {"context_ratio": 1, "context_fusion": ("mul", "add")},
    {"context_ratio": 0.7, "embed_dim": 20, "context_fusion": ("mul", "add"), "context_pooling": "att"},
    {"context_ratio": 0.01, "context_pooling": "att"},
]
CROSS_ATTENTION = [{"fusion": fusion, "global_residual": fusion == "rope"} for fusion in ("gated", "posenc", "rope")]
CROSS_ATTENTION += [{"fusion": "gated_posenc", "denoising_head": True, "context_fusion": ("add",)}]
COMBINATIONS = [("sunet", change) for change in SWIN]
COMBINATIONS += [("gcunet", change) for change in CONTEXT]
COMBINATIONS += [("gcunet", {"patch_size": p, "depths": (3, 1, 2, 1)}) for p in (2, 4)]
HEAD = {"denoising_head": True, "num_heads": (1, 1, 1, 4)}
COMBINATIONS += [("gcunet", HEAD | {"depths": (1, 1, 1, last)}) for last in (1, 2)]
COMBINATIONS += [(n, change) for n in ("glownet", "sglownet") for change in SWIN + CONTEXT + CROSS_ATTENTION]


def combination_id(value):
    return value if isinstance(value, str) else "-".join(f"{k}={v}" for k, v in value.items())


@pytest.mark.parametrize(("network", "change"), COMBINATIONS, ids=combination_id)
def test_reads_back_any_combination(network, change, build, batch):
    """Same outputs, and where an option shows in the tensors the same option, given the hints that none shows."""
    model = build(network, **change)
    unseen = {"qk_scale", "fusion", "global_residual"}
    hints = {option: getattr(model.config, option) for option in unseen}
    hints = {option: value for option, value in hints.items() if value != getattr(PUBLISHED[network], option)}
    rebuilt = from_original(as_original(model), **hints)
    assert rebuilt.name == network
    shown = ["embed_dim", "patch_size", "depths", "denoising_head", "global_residual"]
    shown += [] if network == "sunet" else ["context_pooling", "context_fusion"]
    shown += [] if network == "gcunet" else ["num_heads", "qk_scale"]
    shown += ["fusion"] if network in ("glownet", "sglownet") else []
    assert {o: getattr(rebuilt.config, o) for o in shown} == {o: getattr(model.config, o) for o in shown}
    # Larger than it was trained for, and no multiple of a window, so that shifts and windows show.
    x = batch(72, 88)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), model(x))


# --- weights of this kit, saved without their description


OURS = [
    ("sunet", {"global_residual": True, "qk_scale": None, "noise_normalisation": True, "depths": (2, 2, 2, 2)}),
    ("sunet", {"qk_scale": 0.5, "denoising_head": True, "depths": (1, 1, 1, 1)}),
    ("gcunet", {"global_residual": True, "noise_normalisation": True}),
    ("gcunet", {"context_blocks": False, "patch_size": 4}),
    ("gcunet", {**HEAD, "depths": (1, 1, 1, 2), "qk_scale": None, "window_size": 2}),
    ("glownet", {"global_residual": True, "fusion": "gated", "attention_reach": 3}),
    ("glownet", {"noise_normalisation": True, "fusion": "cross", "context_blocks": False}),
    ("sglownet", {"global_residual": True, "qk_scale": None, "fusion": "rope", "attention_reach": 2}),
    ("sglownet", {"context_blocks": False, "noise_normalisation": True, "fusion": "cross"}),
    ("sglownet", {"fusion": "posenc", "window_size": 8}),  # the deepest stage's window had to shrink: the size shows
]
HINTS = {"global_residual", "noise_normalisation", "training_size"}
HINTS_OF = {
    "sunet": HINTS | {"qk_scale"},
    "gcunet": HINTS,
    "glownet": HINTS | {"qk_scale", "attention_reach", "fusion"},
    "sglownet": HINTS | {"qk_scale", "attention_reach", "fusion"},
}


@pytest.mark.parametrize(("network", "change"), OURS, ids=combination_id)
def test_weights_of_this_kit_are_never_guessed(network, change, build, batch):
    """Each option that no tensor shows has to be given, and is named where it is not; then the outputs are equal."""
    model = build(network, **change)
    state, config = model.state_dict(), model.config
    needed = HINTS_OF[network] | ({"qk_scale"} if config.denoising_head else set())
    needed -= {"fusion"} if config.fusion == "cross" else set()
    needed -= {"training_size"} if network != "gcunet" and config.window_size == 8 else set()
    hints = {option: getattr(config, option) for option in needed}
    for option in needed:
        with pytest.raises(KitError, match=f"no tensor shows {option}:") as caught:
            from_original(state, **{name: value for name, value in hints.items() if name != option})
        assert "\n" not in str(caught.value)
    rebuilt = from_original(state, **hints)
    shown = {*needed, "embed_dim", "patch_size", "denoising_head", "context_blocks"}
    if network != "sunet" and config.context_blocks:
        shown |= {"context_ratio", "context_pooling", "context_fusion"}
    shown -= {"context_blocks"} if network == "sunet" else set()
    assert {o: getattr(rebuilt.config, o) for o in shown} == {o: getattr(config, o) for o in shown}
    x = batch(72, 88)
    with torch.no_grad():
        assert torch.equal(rebuilt(x), model(x))


@pytest.mark.parametrize("name", list_models().shipped)
def test_a_shipped_model_saved_again_is_refused_or_right(name, tmp_path, batch):
    model = load_pretrained(name)
    torch.save(model.state_dict(), tmp_path / "again.pth")
    with pytest.raises(KitError, match="again.pth: .*no tensor shows global_residual, noise_normalisation, "):
        load_pretrained(tmp_path / "again.pth")
    unseen = HINTS_OF[model.name] - ({"fusion"} if model.config.fusion == "cross" else set())
    again = load_pretrained(tmp_path / "again.pth", **{option: getattr(model.config, option) for option in unseen})
    x = batch(48, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_the_weights_are_a_copy(build):
    model = build("gcunet")
    hints = {option: getattr(model.config, option) for option in HINTS}
    rebuilt = from_original(model.state_dict(), **hints)
    with torch.no_grad():
        rebuilt.output.weight.zero_()
    assert model.output.weight.abs().min() > 0


# --- what training scripts put around a state dict


@pytest.mark.parametrize("key", ["params", "params_ema", "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "net.", "model._orig_mod.", "module.model."])
def test_common_wrappers_open(key, prefix, originals):
    state = {prefix + name: tensor for name, tensor in originals["gcunet"].items()}
    model = from_original({"epoch": 3, key: state, "optimizer": {"state": {}}, "lr_schedulers": [{}]})
    assert torch.equal(model.output.weight, originals["gcunet"]["output.weight"])


def test_averaged_weights_come_first(originals):
    state = originals["gcunet"]
    averaged = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    model = from_original({"params": state, "params_ema": averaged})
    assert torch.equal(model.output.weight, 2 * state["output.weight"])


def test_another_wrapper_is_named(originals):
    with pytest.raises(KitError, match="params_ema, params, .*; found 'generator', 'epoch'"):
        from_original({"generator": originals["gcunet"], "epoch": 3})
    with pytest.raises(KitError, match="'9', …$") as caught:
        from_original({str(i): None for i in range(2, 1000)} | {"x" * 9999: None})
    assert len(str(caught.value)) < 400


def test_a_dictionary_in_itself_ends():
    content = {}
    content["model"] = content
    with pytest.raises(KitError, match="found 'model'"):
        from_original(content)


def test_a_name_that_comes_twice_is_refused(originals):
    state = originals["gcunet"]
    with pytest.raises(KitError, match="'output.weight' twice"):
        from_original(state | {"module.output.weight": state["output.weight"]})


# --- what from_original refuses


@pytest.mark.parametrize("network", PUBLISHED)
@pytest.mark.parametrize("prefix", ["module.", "swin_unet.", "gc_net.", "module.swin_unet.", "module.gc_net."])
def test_prefixes_and_never_used_tensors_are_dropped(network, prefix, originals):
    state = originals[network]
    assert any(NEVER_USED.match(name) for name in state)
    model = from_original({prefix + name: tensor for name, tensor in state.items()})
    weights = model.state_dict()
    assert set(weights) == {name for name in state if not NEVER_USED.match(name) and not DERIVED.search(name)}
    assert all(torch.equal(weights[name], state[name]) for name in weights)


ONE_OF_EACH = {
    "sunet": [
        "output.weight",
        "conv_first.bias",
        "norm.weight",
        "layers.0.blocks.0.mlp.fc2.weight",
        "layers.0.blocks.1.attn.relative_position_bias_table",
        "layers_up.2.blocks.0.attn.qkv.bias",
        "layers.1.downsample.reduction.weight",
        "concat_back_dim.2.weight",
        "up.up_b.1.weight",
        "bottleneck.block.blocks.0.attn.relative_position_bias_table",
        "bottleneck.se_block.cSE.fc1.weight",
        "bottleneck.spatial_attn.conv.weight",
    ],
    "gcunet": ["conv_first.4.running_var", "layers.2.downsample.conv_down.bias", "norm_up.weight", "output.weight"],
    "glownet": ["gc_conv_first.weight", "gc_norm.running_mean", "layers.3.context_blocks.0.conv_mask.bias"],
    "sglownet": ["gcn.3.channel_add_conv.1.weight", "gc_channel_proj.bias", "layers.2.cross_attention.key_proj.weight"],
}
EACH = [(network, name) for network, names in ONE_OF_EACH.items() for name in names]


@pytest.mark.parametrize(("network", "name"), EACH)
def test_refuses_a_missing_tensor(network, name, originals):
    state = dict(originals[network])
    del state[name]
    with pytest.raises(KitError, match=re.escape(name)) as caught:
        from_original(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("network", "name"), EACH)
@pytest.mark.parametrize("reshape", ["longer", "flat", "empty"])
def test_refuses_a_misshapen_tensor(network, name, reshape, originals):
    """Also where the options are read off that very tensor."""
    state = dict(originals[network])
    old = tuple(state[name].shape)
    shape = {"longer": (old[0] + 1, *old[1:]), "flat": (old[0], 1, *old[1:], 1, 1), "empty": (0,) * len(old)}[reshape]
    state[name] = torch.zeros(shape)
    with pytest.raises(KitError, match=re.escape(name)) as caught:
        from_original(state)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["layers.0.blocks.1.attn_mask", "layers.1.blocks.0.attn.relative_position_index"])
def test_refuses_a_misshapen_buffer(name, originals):
    state = dict(originals["sunet"])
    state[name] = torch.zeros(1, *state[name].shape)
    with pytest.raises(KitError, match=re.escape(name)):
        from_original(state)


@pytest.mark.parametrize("name", ["decoder.weight", "layers.0.blocks.0.attn.gamma", "layers.7.norm.weight"])
@pytest.mark.parametrize("network", PUBLISHED)
def test_refuses_a_tensor_left_over(network, name, originals):
    with pytest.raises(KitError, match=re.escape(name)):
        from_original(originals[network] | {name: torch.zeros(3)})


@pytest.mark.parametrize(
    ("network", "hints", "named"),
    [
        ("sunet", {"embed_dim": 32}, "embed_dim = 16, not 32"),
        ("sunet", {"window_size": 8}, "window_size = 4, not 8"),
        ("sunet", {"training_size": 128}, "training_size = 64, not 128"),
        ("sunet", {"denoising_head": False}, "denoising_head = True, not False"),
        ("gcunet", {"context_pooling": "att"}, "context_pooling = avg, not att"),
        ("glownet", {"context_ratio": 0.5}, "context_ratio = 0.25, not 0.5"),
        ("glownet", {"fusion": "rope"}, "gated or gated_posenc, not 'rope'"),
        ("sglownet", {"fusion": "posenc"}, "cross, not 'posenc'"),
        ("sglownet", {"depths": (8, 8, 8, 8)}, r"depths = \(2, 1, 1, 1\)"),
        ("sglownet", {"windows": 8}, "unknown hint 'windows'"),
        ("sglownet", {"fusion": "concat"}, "cross, not 'concat'"),
        ("sunet", {"drop_path_rate": 2}, "drop_path_rate"),
    ],
)
def test_refuses_hints_that_the_tensors_contradict(network, hints, named, originals):
    with pytest.raises(KitError, match=named):
        from_original(originals[network], **hints)


def test_a_hint_may_repeat_what_the_tensors_show(originals):
    model = from_original(originals["sglownet"], depths=[2, 1, 1, 1], fusion="cross", context_fusion=["add"])
    assert model.config.depths == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "state", [{}, {"weight": torch.zeros(3)}, [torch.zeros(3)], {"weight": 3}, None, {3: torch.zeros(3)}]
)
def test_refuses_what_is_no_checkpoint(state):
    with pytest.raises(KitError) as caught:
        from_original(state)
    assert "\n" not in str(caught.value)


# --- tensors that are none the network can work with


BAD_VALUES = {
    "NaN": lambda t: t.masked_fill(torch.ones_like(t).cumsum(0) == 1, torch.nan),
    "infinite": lambda t: t / 0,
    "beyond float32": lambda t: t.double() * 1e300,
    "complex": lambda t: t + 1j,
    "whole numbers": lambda t: t.to(torch.int8),
    "truth values": lambda t: t > 0,
    "sparse": lambda t: t.to_sparse(),
    "nested": lambda t: torch.nested.nested_tensor([t, t]),
}


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
@pytest.mark.parametrize("kind", BAD_VALUES)
def test_refuses_values_that_are_none(kind, originals):
    state = originals["gcunet"]
    with pytest.raises(KitError, match=re.escape("output.weight")) as caught:
        from_original(state | {"output.weight": BAD_VALUES[kind](state["output.weight"])})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype, originals):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in originals["gcunet"].items()}
    weights = from_original(state).state_dict()
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights.values())
    assert torch.equal(weights["output.weight"], state["output.weight"].float())


@pytest.fixture
def built_on(monkeypatch):
    """The devices on which networks are built."""
    devices = []

    def create(name, **options):
        devices.append(torch.get_default_device().type)
        return create_model(name, **options)

    monkeypatch.setattr(convert, "create_model", create)
    return devices


@pytest.mark.parametrize("network", PUBLISHED)
def test_nothing_is_built_before_the_shapes_are_compared(network, originals, built_on):
    state = dict(originals[network])
    from_original(state)
    assert built_on == ["meta", "cpu"]
    built_on.clear()
    name, tensor = next((n, t) for n, t in state.items() if n.startswith("layers_up.") and t.ndim > 1)
    state[name] = tensor[1:]
    with pytest.raises(KitError, match=re.escape(name)):
        from_original(state)
    assert built_on == ["meta"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_names_and_shapes_is_a_kit_error_or_loads(data, originals):
    """Tensors dropped, renamed, reshaped, repeated: one line, whatever they spell."""
    state = dict(originals[data.draw(st.sampled_from(sorted(originals)))])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(state)))
        tensor = state.pop(name)
        change = data.draw(st.sampled_from(["drop", "name", "number", "shape", "scalar"]))
        if change == "name":
            state[data.draw(st.sampled_from([name + ".x", name[1:], "model." + name, "layers.9." + name]))] = tensor
        elif change == "number":
            state[re.sub(r"\d", lambda _: str(data.draw(st.integers(0, 9))), name)] = tensor
        elif change == "shape":
            sizes = st.lists(st.integers(0, 7), max_size=5)
            state[name] = torch.zeros(data.draw(sizes))
        elif change == "scalar":
            state[name] = torch.tensor(0.0)
    message = ""
    try:
        assert not from_original(state).training
    except KitError as error:
        message = str(error)
    assert "\n" not in message
