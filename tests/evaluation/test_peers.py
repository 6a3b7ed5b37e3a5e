"""Other authors' networks: the published stacks of convolutions, their weights checked, large images in strips."""

import sys

import numpy as np
import pytest
import requests
import torch
import torch.nn.functional as F
from skimage import data

from glowlib import KitError, add_noise, psnr
from glowlib.data.datasets import load_dataset
from glowlib.evaluation import peers
from glowlib.evaluation.benchmark import open_method, run_benchmark
from glowlib.evaluation.peers import PEERS, DnCNN, FFDNet, cbm3d, peer_weights, restore_whole
from glowlib.files import DATA_VARIABLE, data_folder, sha256
from glowlib.networks.base import parameter_count

CLEAN = data.astronaut()[40:87, 160:223] / 255  # 47×63: odd sides
NOISY = add_noise(CLEAN, 25, seed=0, name="a.png")
HERE = pytest.mark.skipif(
    not all((data_folder() / "peers" / peer.file).exists() for peer in PEERS.values()),
    reason="the weights are not in the data folder",
)


def random_peer(name):
    """The network with seeded random weights of unit gain."""
    torch.manual_seed(0)
    model = PEERS[name].network().eval()
    for parameter in model.parameters():
        if parameter.ndim == 4:
            torch.nn.init.kaiming_normal_(parameter)
    return model


@pytest.mark.parametrize(("network", "last", "count"), [(DnCNN, 38, 668_227), (FFDNet, 22, 852_108)])
def test_names_and_sizes_are_those_of_the_published_files(network, last, count):
    model = network()
    names = [f"model.{i}.{part}" for i in range(0, last + 1, 2) for part in ("weight", "bias")]
    assert list(model.state_dict()) == names
    assert parameter_count(model) == count


def test_dncnn_subtracts_what_a_plain_stack_predicts():
    model = random_peer("dncnn")
    x = torch.rand(1, 3, 9, 11)
    noise = x
    for i in range(0, 39, 2):
        noise = F.conv2d(noise, model.model[i].weight, model.model[i].bias, padding=1)
        noise = noise.relu() if i < 38 else noise
    torch.testing.assert_close(model(x), x - noise)


def test_ffdnet_works_on_sub_images_and_a_noise_map():
    model = random_peer("ffdnet")
    x = torch.rand(1, 3, 7, 10)
    padded = torch.cat([x, x[:, :, -1:]], 2)  # its edge, once more
    small = torch.stack([padded[:, c, i::2, j::2] for c in range(3) for i in (0, 1) for j in (0, 1)], 1)
    small = torch.cat([small, torch.full((1, 1, 4, 5), 30 / 255)], 1)
    for i in range(0, 23, 2):
        small = F.conv2d(small, model.model[i].weight, model.model[i].bias, padding=1)
        small = small.relu() if i < 22 else small
    restored = torch.empty(1, 3, 8, 10)
    for n, (c, i, j) in enumerate((c, i, j) for c in range(3) for i in (0, 1) for j in (0, 1)):
        restored[:, c, i::2, j::2] = small[:, n]
    torch.testing.assert_close(model(x, 30), restored[:, :, :7])


def test_ffdnet_depends_on_the_level_it_is_given():
    model = random_peer("ffdnet")
    assert np.abs(restore_whole(model, NOISY, 10) - restore_whole(model, NOISY, 50)).max() > 1e-3


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("rows", [2, 11, 30])
def test_strips_give_the_same_as_the_whole_image(name, rows):
    model = random_peer(name)
    image = add_noise(data.astronaut()[:131, :40] / 255, 25, seed=0, name="a.png")
    whole = restore_whole(model, image, 25)
    assert whole.shape == image.shape
    np.testing.assert_allclose(restore_whole(model, image, 25, strip=rows * 40), whole, atol=1e-4 * np.abs(whole).max())


def test_a_file_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    path = tmp_path / "peers" / PEERS["dncnn"].file
    path.parent.mkdir()
    path.write_bytes(b"something else")
    with pytest.raises(KitError, match="not the published file.*remove it"):
        peer_weights("dncnn")


def test_weights_are_fetched_once_and_a_failure_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    fetched = []

    def download(url, path):
        fetched.append(url)
        path.write_bytes(b"weights")

    monkeypatch.setattr(peers, "download", download)
    monkeypatch.setitem(PEERS, "ffdnet", PEERS["ffdnet"]._replace(digest=sha256(b"weights")))
    assert peer_weights("ffdnet") == peer_weights("ffdnet") == tmp_path / "peers" / "ffdnet_color.pth"
    assert fetched == ["https://github.com/cszn/KAIR/releases/download/v1.0/ffdnet_color.pth"]

    def fail(url, path):
        raise requests.ConnectionError

    monkeypatch.setattr(peers, "download", fail)
    with pytest.raises(KitError, match="cannot be fetched .ConnectionError.: save https://github.com") as caught:
        peer_weights("dncnn")
    assert "\n" not in str(caught.value)


def test_cbm3d_without_its_package_is_given_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(KitError, match="pip install bm3d"):
        run_benchmark({"tiny": [("a.png", data.astronaut()[:16, :16])]}, ["cbm3d"], (50,), tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()


def test_cbm3d_is_given_the_level_on_the_scale_of_the_image(monkeypatch):
    class Package:
        @staticmethod
        def bm3d_rgb(noisy, sigma_psd):
            return noisy * 0 + sigma_psd

    monkeypatch.setitem(sys.modules, "bm3d", Package)
    np.testing.assert_allclose(open_method("cbm3d")(NOISY, 51), np.full(NOISY.shape, 0.2))


def test_cbm3d_restores():
    pytest.importorskip("bm3d")
    assert psnr(CLEAN, cbm3d(NOISY, 25)) > psnr(CLEAN, NOISY) + 5


@HERE
@pytest.mark.parametrize("name", PEERS)
def test_published_weights_restore(name):
    restored = open_method(name)(NOISY, 25)
    assert restored.shape == NOISY.shape
    assert psnr(CLEAN, restored) > psnr(CLEAN, NOISY) + 8


@HERE
@pytest.mark.skipif(not (data_folder() / "CBSD68").is_dir(), reason="CBSD68 is not in the data folder")
@pytest.mark.parametrize(("name", "expected"), [("dncnn", 26.446692), ("ffdnet", 26.565466)])
def test_score_of_one_image(name, expected):
    file, clean = load_dataset("CBSD68")[1]
    restored = open_method(name)(add_noise(clean, 50, seed=0, name=file), 50)
    assert psnr(clean, restored) == pytest.approx(expected, abs=1e-3)
