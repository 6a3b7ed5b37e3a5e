"""The networks as denoisers of DeepInverse, with its own metrics, physics and algorithms."""

import subprocess
import sys

import pytest
import torch

from glowlib import create_model, load_pretrained

SMALL = {"embed_dim": 8, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4, "patch_size": 2}


@pytest.fixture
def denoiser(deepinv):
    from glowlib.integrations.deepinv import KitDenoiser

    return KitDenoiser


@pytest.fixture
def normalised():
    torch.manual_seed(0)
    return create_model("sunet", **SMALL, training_size=32, qk_scale=None, noise_normalisation=True)


def test_glowlib_is_imported_without_deepinv():
    program = "import sys, glowlib, glowlib.integrations, glowlib.__main__; assert 'deepinv' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("name", ["sunet-small", "sglownet-small"])
def test_noise_goes_down_by_their_psnr(name, deepinv, denoiser, batch):
    clean, sigma = batch(96, 96), 50 / 255
    noisy = deepinv.physics.GaussianNoise(sigma, rng=torch.Generator().manual_seed(0))(clean)
    psnr, model = deepinv.loss.metric.PSNR(), denoiser(name)
    assert isinstance(model, deepinv.models.Denoiser)
    with torch.no_grad():
        restored = model(noisy, sigma)
        assert torch.equal(restored, load_pretrained(name)(noisy))
    assert psnr(restored, clean).item() > psnr(noisy, clean).item() + 8


def test_sigma_is_told_in_the_units_of_the_kit(denoiser, normalised, batch):
    model, x = denoiser(normalised), batch(32, 32, number=2)
    assert not normalised.training
    with torch.no_grad():
        for sigma in (0.1, torch.tensor(0.1), torch.tensor([0.1, 0.1]), [0.1, 0.1], torch.full((2, 1, 1, 1), 0.1)):
            assert torch.allclose(model(x, sigma), normalised(x, sigma=25.5), atol=1e-6)
        each = model(x, torch.tensor([0.05, 0.2]))
        assert torch.allclose(each[1:], model(x[1:], 0.2), atol=1e-5)
        assert not torch.allclose(each[:1], model(x[:1], 0.2), atol=1e-3)
        assert torch.equal(model(x), normalised(x))  # estimated


def test_grey_stays_grey_and_gradients_pass(denoiser, normalised, batch):
    x = batch(32, 32).mean(1, keepdim=True).requires_grad_()
    restored = denoiser(normalised)(x, 0.1)
    assert restored.shape == x.shape
    restored.sum().backward()
    assert x.grad.abs().max() > 0


def test_plug_and_play_fills_in_missing_pixels(deepinv, denoiser, batch):
    """Half of the pixels are missing: proximal gradient descent finds most of what they were."""
    clean, generator = batch(64, 64), torch.Generator().manual_seed(0)
    physics = deepinv.physics.Inpainting(
        img_size=clean.shape[1:],
        mask=0.5,
        noise_model=deepinv.physics.GaussianNoise(0.02, rng=generator),
        rng=generator,
    )
    observed, psnr = physics(clean), deepinv.loss.metric.PSNR()
    solver = deepinv.optim.PGD(
        prior=deepinv.optim.prior.PnP(denoiser("sglownet-small")),
        data_fidelity=deepinv.optim.data_fidelity.L2(),
        stepsize=1.0,
        sigma_denoiser=0.05,
        max_iter=30,
    )
    with torch.no_grad():
        restored = solver(observed, physics)
    assert psnr(restored, clean).item() > psnr(observed, clean).item() + 5
