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
from originals import as_original

from glowlib.errors import KitError
from glowlib.networks import PUBLISHED
from glowlib.networks.base import parameter_count
from glowlib.networks.convert import from_original

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
ASKING = [{"fusion": fusion, "global_residual": fusion == "rope"} for fusion in ("gated", "posenc", "rope")]
ASKING += [{"fusion": "gated_posenc", "denoising_head": True, "context_fusion": ("add",)}]
COMBINATIONS = [("sunet", change) for change in SWIN]
COMBINATIONS += [("gcunet", change) for change in CONTEXT]
COMBINATIONS += [("gcunet", {"patch_size": p, "depths": (3, 1, 2, 1)}) for p in (2, 4)]
HEAD = {"denoising_head": True, "num_heads": (1, 1, 1, 4)}
COMBINATIONS += [("gcunet", HEAD | {"depths": (1, 1, 1, last)}) for last in (1, 2)]
COMBINATIONS += [(n, change) for n in ("glownet", "sglownet") for change in SWIN + CONTEXT + ASKING]


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


def test_reads_a_state_dict_of_ours(build, batch):
    """Without the derived buffers nothing tells which stages shift, so the training size is a hint."""
    model = build("sunet", depths=(2, 2, 2, 2), qk_scale=None)
    x = batch(64, 64)
    with torch.no_grad():
        rebuilt = from_original(model.state_dict(), qk_scale=None, training_size=64)
        assert torch.equal(rebuilt(x), model(x))
    assert rebuilt.config.training_size == 64


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
