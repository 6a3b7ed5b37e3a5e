"""Profiles: those that come with the kit load, and a mistyped key is named."""

from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import yaml

from glowlib.errors import KitError
from glowlib.experiments.model_cards import minutes
from glowlib.networks import NETWORKS, create_model
from glowlib.networks.pretrained import read_weights
from glowlib.training.config import TrainingConfig
from glowlib.training.optim import initial_network
from glowlib.training.profiles import Profile, list_profiles, load_profile, plan, resolve_model


def written(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", list_profiles())
def test_every_shipped_profile_loads(name):
    profile = load_profile(name)
    assert profile.name == name
    assert isinstance(profile.training, TrainingConfig)
    for model in profile.models.values():
        assert model["network"] in NETWORKS
        options = {key: value for key, value in model.items() if key not in ("network", "training")}
        if options.get("embed_dim", 96) <= 64:  # the full size is built elsewhere
            create_model(model["network"], **options)


def test_small_is_among_them():
    assert "small" in list_profiles()


def test_values_and_defaults(tmp_path):
    text = "sigmas: [15, 25]\nmodels: {m: {network: sunet}}\n"
    text += "training: {lr: 2.0e-4, sigma: [25, 25], betas: [0.9, 0.99]}\n"
    profile = load_profile(written(tmp_path, text))
    assert profile.name == "mine"
    assert profile.sigmas == (15, 25)
    assert profile.seeds == Profile("x").seeds == (0,)
    assert profile.training == TrainingConfig(lr=2e-4, sigma=(25, 25), betas=(0.9, 0.99))
    assert profile.models == {"m": {"network": "sunet"}}


def test_an_empty_profile_is_all_defaults(tmp_path):
    assert load_profile(written(tmp_path, "")) == Profile("mine")


@pytest.mark.parametrize(
    ("text", "key", "known"),
    [
        ("sigma: [10]", "'sigma'", Profile),
        ("training: {learning_rate: 1.0e-3}", "'learning_rate'", TrainingConfig),
    ],
)
def test_unknown_keys_are_refused_by_name(text, key, known, tmp_path):
    with pytest.raises(KitError, match=f"unknown key {key}") as caught:
        load_profile(written(tmp_path, text))
    assert all(field.name in str(caught.value) for field in fields(known))
    assert "mine.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("training: {loss: l2}", "l1, charbonnier"),
        ("training: {optimizer: sgd}", "adamw, adam"),
        ("training: {precision: int8}", "bfloat16"),
        ("training: 3", "keys and values"),
        ("training:", "keys and values"),
        ("sigmas: [1", "mine.yaml"),
        ("- quick", "keys and values"),
        ("training: {sigma: 25}", "sigma should be a list"),
        ("training: {lr: 1e-3}", "lr"),  # YAML 1.1 reads this as text
        ("training: {lr: 0}", "lr is from"),
        ("training: {lr: .nan}", "lr is from"),
        ("training: {sigma: [50]}", "two levels"),
        ("training: {sigma: [50, 5]}", "the lower first"),
        ("training: {betas: [0.9, 1]}", "below 1"),
        ("training: {validate_every: 0}", "validate_every is from 1 up"),
        ("training: {share_drawn: 1.5}", "share_drawn is from 0 to 1"),
        ("training: {seed: -1}", "seed is from 0 to"),
        ("training: {seed: 4294967296}", "seed is from 0 to"),
        ("training: {lr: .inf}", "lr is from"),
        ("training: {sigma: [5, .inf]}", "sigma should be a list, each a number"),
        ("training: {sigma: [low, high]}", "sigma should be a list, each a number"),
        ("training: {betas: [a, b]}", "betas should be a list, each a number"),
        ("training: {grow_at: [1.5], grow_to: [32]}", "grow_at should be a list, each a whole number"),
        ("training: {restarts: [300], restart_lr: [1.0e-3], restart_drawn: [2.0]}", "a share from 0 to 1"),
        ("sigmas: [abc]", "sigmas should be a list, each a number"),
        ("seeds: [a]", "seeds should be a list, each a whole number"),
        ("models: {m: {network: [sunet]}}", "it needs a network"),
        ("models: [m]", "models should be keys and values"),
        ("\x00", "cannot read the profile"),
        (f"sigmas: [{'9' * 400}]", "sigmas should be a list, each a number"),
        ("sigmas: [-5]", "sigmas should be noise levels from 0 up"),
        ("protocols: [foo]", "protocols should be some of float, 8bit"),
        ("seeds: [-1]", "seeds should be whole numbers from 0 up"),
        ("tile: -1", "tile should be 0, or a side"),
        ("centre_crops: {bundled: -3}", "centre_crops should be a side"),
        ("set_sigmas: {bundled: [-5]}", "set_sigmas should be a list of noise levels"),
        ("set_sigmas: {bundled: 50}", "set_sigmas should be a list of noise levels"),
        ("set_sigmas: {bundled: []}", "set_sigmas should be a list of noise levels"),
        ("set_sigmas: {bundled: [a]}", "set_sigmas should be a list of noise levels"),
        ("comparisons: [[a]]", "comparisons should be pairs of models"),
        ("comparisons: [[a, b]]", "comparisons should be pairs of models"),
        ("models: {a: {network: foo}}", "unknown network 'foo'"),
        (f"models: {{{'a' * 300}: {{network: sunet}}}}", "cannot name a model"),
    ],
)
def test_what_does_not_fit_is_one_line(text, named, tmp_path):
    with pytest.raises(KitError, match=named) as caught:
        load_profile(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_section_says_what_is_other(tmp_path):
    """A value that only fits together with the profile's own is no error."""
    text = """
training: {warmup: 10, restarts: [20], restart_lr: [1.0e-3]}
fine_tuning: {restarts: [100]}
models: {net: {network: sunet, training: {restarts: [50]}}}
"""
    profile = load_profile(written(tmp_path, text))
    assert plan(profile, "net")[3].restarts == (50,)
    assert plan(profile, "net", "start")[3].restarts == (100,)


def test_a_model_by_its_name_or_by_its_network(tmp_path):
    profile = load_profile(
        written(tmp_path, "models: {sunet: {network: sunet}, b: {network: sunet}, c: {network: gcunet}}")
    )
    assert [resolve_model(profile, name) for name in ("sunet", "b", "gcunet")] == ["sunet", "b", "c"]
    two = load_profile(written(tmp_path, "models: {a: {network: sunet}, b: {network: sunet}}"))
    with pytest.raises(KitError, match="'sunet' means several models: a, b"):
        resolve_model(two, "sunet")
    with pytest.raises(KitError, match="unknown model to train 'd'"):
        resolve_model(profile, "d")


def test_unknown_profile_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match="unknown profile 'smal'") as caught:
        load_profile("smal")
    assert all(name in str(caught.value) for name in list_profiles())
    with pytest.raises(KitError, match="cannot read the profile"):
        load_profile(tmp_path / "absent.yaml")


@pytest.mark.parametrize("model", ["sunet", "gcunet", "glownet", "sglownet"])
def test_the_published_recipes(model):
    """Reference: the page of the published networks; an epoch is 800 × 20 (SUNet: 100) pairs."""
    name, network, options, config = plan(load_profile("paper"), model)
    assert (network, options) == (model, {})
    batch, epochs = {"sunet": (4, 500), "glownet": (32, 100)}.get(model, (8, 100))
    pairs = 800 * (100 if model == "sunet" else 20)
    assert (config.batch_size, config.epoch) == (batch, pairs // batch)
    assert config.steps == epochs * config.epoch
    assert config.warmup == 3 * config.epoch
    assert (config.lr, config.min_lr, config.optimizer, config.betas) == (2e-4, 1e-6, "adam", (0.9, 0.999))
    _, _, _, tuned = plan(load_profile("paper"), model, "blind.pth", sigma=(30, 30))
    assert (tuned.lr, tuned.batch_size, tuned.steps // tuned.epoch) == (8e-5, 16, 100)


@pytest.mark.parametrize("name", ["../..", "a/b", "/tmp/x", "..", ".", "", "a\\b", "C:x", "two\nlines", 3])
def test_names_that_could_leave_the_folder_are_refused(name, tmp_path):
    """Names of profiles and models become parts of paths."""
    for values in ({"name": name}, {"models": {name: {"network": "sunet"}}}):
        with pytest.raises(KitError, match="mine.yaml") as caught:
            load_profile(written(tmp_path, yaml.safe_dump(values)))
        assert repr(name) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert load_profile(written(tmp_path, "name: my rate-2.4e-3_b\nmodels: {1x: {network: sunet}}")).name


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path, "training: {steps: 7}")
    assert load_profile("~/mine.yaml").training.steps == 7


def test_stages_of_growing_crops():
    """8 crops of 16 pixels, then 2 of 32, then 1 of 48: about as many pixels in each batch, positions without gaps."""
    config = TrainingConfig(steps=9, batch_size=8, crop=16, grow_at=(3, 5), grow_to=(32, 48))
    batches = [config.batch_positions(step) for step in range(9)]
    assert [len(batch) for batch in batches] == [8, 8, 8, 2, 2, 1, 1, 1, 1]
    assert [position for batch in batches for position in batch] == list(range(32))
    sides = [16] * 3 + [32] * 2 + [48] * 4
    for step, batch in enumerate(batches):
        assert {config.locate(position) for position in batch} == {(step, sides[step])}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grow_at": (5, 3), "grow_to": (32, 48)}, "grow_at is rising steps"),
        ({"grow_at": (0,), "grow_to": (32,)}, "grow_at is rising steps from 1 up"),
        ({"grow_at": (5,)}, "grow_to is a side"),
        ({"grow_at": (5,), "grow_to": (8,)}, "at least 16 pixels"),
    ],
)
def test_stages_that_do_not_fit_are_refused(change, said):
    with pytest.raises(KitError, match=said):
        TrainingConfig(**change)


def test_frozen_statistics_need_weights_to_start_from():
    with pytest.raises(KitError, match="give them with --from"):
        plan(load_profile("quick"), "sglownet", batch_norm="frozen")
    assert plan(load_profile("quick"), "sglownet", "start", batch_norm="frozen")[3].batch_norm == "frozen"


CAMPAIGN = Path(__file__).parents[2] / "results" / "campaign"
SECOND_LEG = sorted((CAMPAIGN / "leg2").glob("*.safetensors"))


def test_the_second_leg_starts_from_the_weights_of_the_first():
    profile = load_profile(CAMPAIGN / "campaign.yaml")
    for model in profile.models:
        weights = CAMPAIGN / "leg1" / f"{model}.safetensors"
        _, network, options, recipe = plan(profile, model, weights)
        assert (recipe.steps, recipe.batch_size, recipe.grow_at) == (8000, 8, ())
        assert initial_network(network, options, weights).config.noise_normalisation


def test_the_second_leg_changed_the_weights_of_the_first():
    assert SECOND_LEG
    for path in SECOND_LEG:
        after, description = read_weights(path)
        before, _ = read_weights(CAMPAIGN / "leg1" / path.name)
        assert description["start"] == f"results/campaign/leg1/{path.name}"
        assert description["step"] == description["training"]["steps"] == 8000
        same = {name for name, tensor in after.items() if tensor.equal(before[name])}
        statistics = {name for name in after if name.endswith(("running_mean", "running_var"))}
        frozen = description["training"].get("batch_norm") == "frozen"
        assert statistics <= same if frozen else not statistics & same
        assert len(same - statistics) < len(after) / 10


def test_the_campaigns_page_holds_the_last_scores_of_the_logs():
    page = (CAMPAIGN / "README.md").read_text()
    for path in SECOND_LEG:
        log = pd.read_csv(path.with_suffix(".csv"))
        scores = " | ".join(f"{log.iloc[-1][f'psnr_sigma{sigma}']:.2f}" for sigma in (10, 25, 50))
        assert f"| {minutes(log, 8):.0f} | {scores} |" in page.split("## The second leg")[1]
