"""A denoiser for DeepInverse (https://deepinv.github.io), to solve inverse problems by plug-and-play.

    from deepinv.optim import PGD
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.prior import PnP
    from glowlib.integrations.deepinv import KitDenoiser

    prior = PnP(denoiser=KitDenoiser("sglownet-small"))
    solver = PGD(prior=prior, data_fidelity=L2(), stepsize=1.0, sigma_denoiser=0.05, max_iter=20)
    restored = solver(observation, physics)

It needs the package deepinv: pip install glowlib[deepinv]
"""

from typing import Any

import torch
from deepinv.models import Denoiser
from torch import nn

from ..networks.pretrained import load_pretrained


class KitDenoiser(Denoiser):
    """A network of this kit under deepinv's contract for denoisers. It is differentiable.

    Args:
        model: a network of this kit, or what `load_pretrained` opens. It is put in eval mode.
        device: where it computes.
    """

    def __init__(self, model: nn.Module | str, device: str | torch.device = "cpu"):
        super().__init__()
        self.model = model if isinstance(model, nn.Module) else load_pretrained(model)
        self.eval().to(device)

    def forward(
        self, x: torch.Tensor, sigma: float | list[float] | torch.Tensor | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Restore a batch of images, whole.

        Args:
            x: (batch, 3 or 1, H, W), clean values in [0, 1].
            sigma: standard deviation of the noise in the units of x, one number or one for each image. A model
                with noise normalisation gets it as 255·sigma, or estimates the level where it is None; other models
                ignore it.
            **kwargs: deepinv's, without effect.
        Returns:
            The same shape, not clipped; of a grey image the mean of the restored channels.
        Raises:
            KitError: for another shape.
        """
        given = {}
        if sigma is not None and self.model.config.noise_normalisation:
            given["sigma"] = 255 * torch.as_tensor(sigma, dtype=x.dtype, device=x.device).flatten()
        restored = self.model(x, **given)
        return restored if x.shape[1] == 3 else restored.mean(1, keepdim=True)
