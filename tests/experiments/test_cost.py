"""Costs are counted right: against counts that can be made by hand, and against the published networks'."""

import json
import platform
import sys

import numpy as np
import pytest
import torch

from glowlib import create_model, load_pretrained
from glowlib.experiments.cost import cost, flops, method_facts, peak_memory, peak_memory_increase
from glowlib.files import shipped_folder
from glowlib.networks import fast
from glowlib.networks.base import parameter_count


def test_operations_of_gcunet_at_nano_size_by_hand():
    """The convolutions and poolings of one stage a level; a multiply-add counts as two."""
    c, side = 16, 32
    model = create_model("gcunet", embed_dim=c, patch_size=2, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    per_channel = {"stem": 9 * 3 * c + 9 * c * c}
    half = side // 2
    total = 2 * half**2 * per_channel["stem"]
    hidden = int(c * model.config.context_ratio)
    for i in range(4):
        d, n, h = c * 2**i, (half // 2**i) ** 2, hidden * 2**i
        total += 2 * (2 * 2 * d * h)  # two context blocks, encoder and decoder: pooled by mean, two 1×1 convolutions
        if i < 3:
            total += 2 * (n // 4) * 9 * d * 2 * d  # down-sample
            total += 2 * n * 2 * d * d  # the skip's projection
        if i:
            small = d // 2
            sharp = n * d * 2 * d + 4 * n * small * small
            smooth = n * (d * d + d * small)
            merged = small * small * small + small * small * d  # the matrices of each path
            total += 2 * (sharp + smooth + merged)
    taps = 27  # the last up-sample's result and the output convolution: what a pixel gives to the nine around it
    sharp = half**2 * c * 4 * c + side**2 * c * taps
    smooth = half**2 * (c * c + c * taps)
    merged = taps * c * 2 * c + 2 * taps * c * c
    assert flops(model, side) == total + 2 * (sharp + smooth + merged)


@pytest.mark.parametrize(
    ("name", "published"), [("sunet", 64.4), ("gcunet", 10.5), ("glownet", 193.2), ("sglownet", 99.1)]
)
def test_no_more_operations_than_the_original(name, published):
    with torch.device("meta"):
        model = create_model(name)
    assert 0.3 * published < flops(model) / 1e9 < published
    with fast.disabled():
        assert flops(model) / 1e9 == pytest.approx(published, rel=0.005)


def test_cost_of_a_shipped_model():
    found = cost("sglownet-small")
    assert found["parameters"] == parameter_count(load_pretrained("sglownet-small"))
    assert 1 < found["gflops"] < 100


def test_operations_of_other_authors_networks_by_hand():
    facts = method_facts(["dncnn", "ffdnet"])
    dncnn = 9 * (3 * 64 + 18 * 64 * 64 + 64 * 3)
    ffdnet = 9 * (13 * 96 + 10 * 96 * 96 + 96 * 12) / 4  # on a quarter of the pixels
    np.testing.assert_allclose(facts["operations per pixel"], [2 * dncnn, 2 * ffdnet])
    assert facts["parameters"].tolist() == [668_227, 852_108]
    assert facts["training pixels"].isna().all()
    assert facts["noise level"].tolist() == ["blind", "given"]


def test_facts_of_every_kind_of_method():
    facts = method_facts(["noisy", "nlm", "cbm3d", "sglownet-small", "sglownet-small@64"])
    assert facts["noise level"].tolist() == ["", "given", "given", "blind", "blind"]
    found, size = facts.loc["sglownet-small"], cost("sglownet-small")
    assert found["parameters"] == size["parameters"]
    assert found["operations per pixel"] == pytest.approx(1e9 * size["gflops"] / 256**2)
    description = json.loads((shipped_folder() / "sglownet-small" / "config.json").read_text())
    recipe = description["training"]
    assert found["training pixels"] == description["step"] * recipe["batch_size"] * recipe["crop"] ** 2
    assert facts.loc["sglownet-small@64"].equals(found)
    assert facts.loc[["nlm", "cbm3d"], "operations per pixel"].isna().all()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_grows_with_the_image():
    small, large = (peak_memory("sglownet-small", side, side) for side in (256, 512))
    assert 0 < small < large < 4e9


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_the_probe_finds_the_packages_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("print(1234)\nraise SystemExit")  # what the probe imports first
    monkeypatch.syspath_prepend(tmp_path)
    assert peak_memory("sglownet-small") == 1234


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_a_peak_counts_although_it_is_over_and_an_earlier_one_does_not():
    def take(megabytes):
        return lambda: np.ones(megabytes * 2**17).sum()  # freed before the task ends

    assert peak_memory_increase(take(200)) > 190 * 2**20
    assert peak_memory_increase(take(20)) < 100 * 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="freed memory is given back by glibc")
def test_memory_that_was_freed_before_hides_nothing():
    def blocks(count):
        return [bytes(100_000) for _ in range(count)]

    held = blocks(2000)
    last = bytes(100_000)  # what lies above the freed blocks keeps them from going back by themselves
    del held
    assert peak_memory_increase(lambda: blocks(1000)) > 90e6
    assert len(last) == 100_000
