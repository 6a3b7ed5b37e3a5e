"""What the tokens of a trained network attend to in cross-attention."""

from typing import NamedTuple

import torch
from torch import nn

from ..networks import fast
from .interventions import CROSS_ATTENTION, attention_of


class AttentionWeights(NamedTuple):
    """The softmax weights of one cross-attention on one image."""

    stage: str  # such as "encoder 0"
    grid: tuple[int, int]  # (h, w), tokens
    weights: torch.Tensor  # (heads, h·w queries, h·w keys); each query's weights sum to 1

    def keys_in_use(self) -> float:
        """Effective number of keys: exp of the entropy of a query's weights, mean over heads and queries."""
        entropy = -(self.weights * self.weights.clamp(min=1e-30).log()).sum(-1)
        return float(entropy.exp().mean())

    def difference_of_queries(self) -> float:
        """Total variation between a query's weights and those of the mean query: 0 the same, 1 disjoint; the mean."""
        return float((self.weights - self.weights.mean(1, keepdim=True)).abs().sum(-1).mean() / 2)


@torch.no_grad()
def cross_attention_weights(net: nn.Module, image: torch.Tensor) -> list[AttentionWeights]:
    """The weights of every cross-attention of a network, in the order of computation.

    Args:
        net: a GLOWNet or S-GLOWNet in eval mode.
        image: (1, 3, H, W); memory grows with the fourth power of the side.
    """
    names = [name for name, module in net.named_modules() if isinstance(module, CROSS_ATTENTION)]
    labels = [name.replace("layers_up.", "decoder ").replace("layers.", "encoder ").split(".")[0] for name in names]
    found = []

    def attend(q, k, v, num_heads, grid, reach=None):
        q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        found.append(AttentionWeights(labels[len(found)], grid, weights[0]))
        return (weights @ v).transpose(1, 2).flatten(2)

    with fast.disabled(), attention_of(attend):
        net(image)
    return found
