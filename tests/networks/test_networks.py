"""The four networks as a whole: every option, any size, both precisions, and what must not matter."""

import copy
from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F
from options import CASES, CHANGES, IDS, IGNORED, NETWORKS, relative_error

from glowlib.errors import KitError
from glowlib.networks import create_model
from glowlib.networks.base import pad_to_multiple
from glowlib.networks.config import FUSIONS, ModelConfig
from glowlib.networks.cross_attention import FUSIONS as BUILT
from glowlib.networks.swin import stage_options


def test_every_option_is_tried():
    assert set(CHANGES) == {field.name for field in fields(ModelConfig)}


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("network", "change"), CASES, ids=IDS)
def test_options_train_at_small_sizes(network, change, nano, batch):
    """From fresh weights, in training mode: finite, same size, and a gradient for every parameter.

    16×16 brings the deepest grid down to one position; 37×53 is no multiple of anything.
    """
    torch.manual_seed(0)
    model = create_model(network, **{**nano, **change})
    for height, width in ((16, 16), (37, 53)):
        x = batch(height, width)
        y = model(x)
        assert y.shape == x.shape
        assert y.isfinite().all()
        model.zero_grad(set_to_none=True)
        y.square().mean().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert not missing


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_trains_at_128x96(network, nano, batch):
    torch.manual_seed(0)
    model = create_model(network, **nano)
    x = batch(128, 96)
    y = model(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    y.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("change", [{}, {"context_fusion": ("mul", "add"), "denoising_head": True}])
def test_every_parameter_matters(network, change, build, batch):
    """With no weight at its initial zero, every gradient is non-zero, but for what a softmax cannot see.

    A constant added to all logits cancels: the bias of the pooling's mask and, without rotation, of the keys.
    Eval mode, since batch statistics would hide the biases in front of them too.
    """
    model = build(network, **change, context_ratio=1).double()  # few hidden channels may all be cut by the ReLU
    x = batch(48, 64).double()
    (model(x) * torch.linspace(-1, 1, 48, dtype=x.dtype)[:, None]).sum().backward()
    largest = {name: p.grad.abs().max().item() for name, p in model.named_parameters()}
    unseen = {name for name in largest if name.endswith(("conv_mask.bias", "key_proj.bias", "k_proj.bias"))}
    assert bool(unseen) == (network in ("glownet", "sglownet"))  # the published GCUNet pools by the mean
    scale = max(largest.values())
    assert {name for name, value in largest.items() if value < 1e-13 * scale} == unseen


@pytest.mark.usefixtures("form")
def test_rotated_keys_see_their_bias(build, batch):
    """A rotated bias differs from key to key, so rotary attention is the one whose key bias is learned."""
    model = build("sglownet", fusion="rope")
    model(batch(32, 48)).square().mean().backward()
    found = [p.grad.abs().max().item() for name, p in model.named_parameters() if name.endswith("k_proj.bias")]
    assert len(found) == 7
    assert min(found) > 1e-7


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("network", "change"), CASES, ids=IDS)
def test_an_option_changes_the_output_where_it_should(network, change, build, batch):
    base, changed = build(network), build(network, **change)
    without_effect = {"drop_path_rate", *IGNORED[network]}  # no path is dropped in eval mode
    same = base.config == changed.config or without_effect.issuperset(change)
    x = batch(37, 53)
    with torch.no_grad():
        base, changed = base(x), changed(x)
    if same:
        assert torch.equal(base, changed)
    else:
        assert relative_error(changed, base) > 1e-4


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", ("sunet", "glownet", "sglownet"))
def test_drop_path_acts_in_training_only(network, build, batch):
    model = build(network, drop_path_rate=0.5)
    x = batch(16, 16, 4)

    def output(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(x)

    assert torch.equal(output(0), output(1))
    model.train()
    assert torch.equal(output(0), output(0))
    assert not torch.equal(output(0), output(1))


def test_drop_path_rates_rise_linearly(nano):
    config = ModelConfig(**{**nano, "depths": (2, 1, 3, 1), "drop_path_rate": 0.3})
    rates = [rate for i in range(4) for rate in stage_options(config, i)["drop_paths"]]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3])


def test_windows_are_planned_for_the_training_size():
    """Window 8, grids of 32, 16, 8 and 4 tokens: where the grid fits in one window, nothing shifts."""
    config = ModelConfig(training_size=128)
    stages = [stage_options(config, i) for i in range(4)]
    assert [(stage["window"], stage["shift"]) for stage in stages] == [(8, 4), (8, 4), (8, 0), (4, 0)]
    assert [stage["dim"] for stage in stages] == [96, 192, 384, 768]


@pytest.mark.parametrize(
    ("network", "parameters"),
    [("sunet", 99_683_720), ("gcunet", 10_616_072), ("glownet", 120_450_940), ("sglownet", 108_899_916)],
)
def test_published_size(network, parameters):
    """The paper's configurations, less the tensors the original never uses."""
    with torch.device("meta"):  # shapes only
        model = create_model(network)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_bfloat16_agrees_loosely(network, build, batch):
    """bfloat16 keeps 8 bits: a few per cent after some twenty layers, whether cast or under autocast."""
    model = build(network, qk_scale=None)
    x = batch(32, 48)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x)
        low = model.bfloat16()(x.bfloat16())
    assert exact.dtype == torch.float32
    assert low.dtype == torch.bfloat16
    assert relative_error(mixed, exact) < 0.05
    assert relative_error(low, exact) < 0.05


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_mixed_precision_spares_the_layers_at_the_pixels(network, build, batch):
    """The inner layers take half the memory; rounding of those at the pixels would show in the image."""
    model = build(network, qk_scale=None)
    x = batch(32, 48)
    with torch.no_grad():
        exact = model(x)
        low = copy.deepcopy(model).bfloat16()(x)
        assert model.mixed_precision() is model
        mixed = model(x)
    assert mixed.dtype == torch.float32
    assert relative_error(mixed, exact) < relative_error(low, exact) < 0.05
    types = {name: {p.dtype for p in layer.parameters()} for name, layer in model.named_children()}
    kept = {name for name, found in types.items() if found == {torch.float32}}
    assert kept == {"conv_first", "patch_embed", "up", "output"} & set(types)
    assert all(found <= {torch.bfloat16} for name, found in types.items() if name not in kept)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_float64_confirms_float32(network, build, batch):
    """The only difference between the two is rounding, so nothing inside is cast down by accident."""
    model = build(network, qk_scale=None)
    x = batch(32, 48)
    with torch.no_grad():
        single, double = model(x), model.double()(x.double())
    assert double.dtype == torch.float64
    assert relative_error(single, double) < 1e-5


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_grey_is_repeated(network, build, batch):
    model = build(network, global_residual=True)
    grey = batch(21, 30, 2).mean(1, keepdim=True)
    with torch.no_grad():
        assert torch.equal(model(grey), model(grey.repeat(1, 3, 1, 1)))


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_global_residual_adds_the_input(network, build, batch):
    x = batch(19, 33)
    with torch.no_grad():
        plain, residual = build(network)(x), build(network, global_residual=True)(x)
    torch.testing.assert_close(residual, plain + x)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_batch_is_independent(network, build, batch):
    model = build(network, qk_scale=None)
    x = batch(37, 53, 3)
    with torch.no_grad():
        together = model(x)
        alone = torch.cat([model(one[None]) for one in x])
    assert relative_error(together, alone) < 1e-5


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("height", "width"), [(37, 53), (9, 7), (16, 17)])
def test_any_size_is_padded_then_cropped(network, height, width, build, batch):
    """The same as the padded image, so the crop is the top left corner and nothing else is padded."""
    model = build(network)
    x = batch(height, width)
    with torch.no_grad():
        whole = model(pad_to_multiple(x, 16))
        assert torch.equal(model(x), whole[..., :height, :width])


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("network", NETWORKS)
def test_memory_layout_and_gradient_mode_do_not_matter(network, build, batch):
    model = build(network, qk_scale=None)
    x = batch(32, 48)
    with torch.inference_mode():
        base = model(x)
    assert relative_error(model(x.to(memory_format=torch.channels_last)).detach(), base) < 1e-5


def test_pad_reflects_or_repeats_the_edge():
    x = torch.arange(12.0).reshape(1, 1, 2, 6)
    padded = pad_to_multiple(x, 8)
    assert padded[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]  # reflected, the edge not doubled
    # Two rows cannot be reflected to eight.
    assert torch.equal(padded[0, 0, 1:], padded[0, 0, 1].expand(7, 8))
    assert pad_to_multiple(padded, 8) is padded
    assert torch.equal(pad_to_multiple(x[..., :5], 9)[0, 0, 0], F.pad(x[..., :5], (0, 4, 0, 0), "reflect")[0, 0, 0])


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 2, 16, 16), (1, 4, 16, 16), (16, 16)])
def test_refuses_what_is_no_image_batch(network, shape, build):
    with pytest.raises(KitError, match="expected an image batch"):
        build(network)(torch.zeros(shape))


def test_refuses_whole_numbers(build):
    with pytest.raises(KitError, match="floating-point"):
        build("sunet")(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))


def test_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match="sglownet") as caught:
        create_model("sglonet")
    assert all(name in str(caught.value) for name in NETWORKS)
    assert "did you mean 'sglownet'" in str(caught.value)


@pytest.mark.parametrize("network", NETWORKS)
def test_unknown_option_lists_the_known(network, nano):
    with pytest.raises(ValueError, match="'windowsize'") as caught:
        create_model(network, **nano, windowsize=8)
    assert all(field.name in str(caught.value) for field in fields(ModelConfig))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"patch_size": 3}, "patch_size"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"embed_dim": 15, "num_heads": (1, 1, 1, 1)}, "embed_dim"),
        ({"depths": (1, 1, 1)}, "depths"),
        ({"depths": (1, 1, 1, 0)}, "depths"),
        ({"depths": (1, 1, 1.5, 1)}, "depths"),
        ({"num_heads": (3, 2, 2, 2)}, "num_heads"),
        ({"num_heads": (1, 2, 2)}, "num_heads"),
        ({"num_heads": (0, 2, 2, 2)}, "num_heads"),
        ({"window_size": 0}, "window_size"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"context_ratio": 0}, "context_ratio"),
        ({"context_pooling": "max"}, "context_pooling"),
        ({"context_fusion": ()}, "context_fusion"),
        ({"context_fusion": ("add", "add")}, "context_fusion"),
        ({"context_fusion": "sum"}, "context_fusion"),
        ({"fusion": "concat"}, "fusion"),
        ({"training_size": 40}, "training_size"),
        ({"training_size": 8}, "training_size"),
    ],
    ids=str,
)
@pytest.mark.parametrize("network", NETWORKS)
def test_options_that_do_not_fit_are_one_line(network, change, named, nano):
    with pytest.raises(KitError, match=named) as caught:
        create_model(network, **{**nano, **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network", ("glownet", "sglownet"))
@pytest.mark.parametrize(
    "change",
    [
        {"fusion": "rope", "embed_dim": 6, "num_heads": (2, 2, 2, 2)},  # three channels a head cannot be paired
        {"num_heads": (16, 32, 2, 2)},  # the decoder attends with half the channels of its stage
    ],
)
def test_heads_must_fit_the_cross_attention(network, change, nano):
    with pytest.raises(KitError, match="cross-attention needs") as caught:
        create_model(network, **{**nano, **change})
    assert "\n" not in str(caught.value)


def test_every_fusion_is_built():
    assert tuple(BUILT) == FUSIONS


def test_lists_and_single_words_are_taken():
    """YAML and JSON have no tuples."""
    config = ModelConfig(depths=[1, 2, 3, 4], context_fusion="mul")
    assert config.depths == (1, 2, 3, 4)
    assert config.context_fusion == ("mul",)
    assert config == ModelConfig(depths=(1, 2, 3, 4), context_fusion=["mul"])


@pytest.mark.parametrize("network", NETWORKS)
def test_fresh_weights(network, nano):
    """Linear layers: zero bias, weights of spread 0.02; context blocks start as the identity."""
    torch.manual_seed(3)
    model = create_model(network, **nano, context_fusion=("add",))
    assert model.training
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert (len(linear) > 0) == (network != "gcunet")
    for layer in linear:
        assert layer.bias is None or not layer.bias.any()
        assert layer.weight.abs().max() <= 2.0
        if layer.weight.numel() > 2000:
            # The median: timm cuts at ±2, and one draw in 2^24 lands there.
            assert layer.weight.abs().median().item() == pytest.approx(0.6745 * 0.02, rel=0.1)
    last = [p for name, p in model.named_parameters() if "channel_add_conv.3" in name]
    assert (len(last) > 0) == (network != "sunet")
    assert not any(p.any() for p in last)
