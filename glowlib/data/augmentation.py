"""Augmentation of training crops: symmetries of the square, permuted channels, another saturation."""

import numpy as np


def random_symmetry(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop H×W×channels in one of the eight symmetries of the square, each equally likely."""
    crop = np.rot90(crop, rng.integers(4))
    return crop[:, ::-1] if rng.integers(2) else crop


def augment_colours(
    crop: np.ndarray, rng: np.random.Generator, share_permuted: float, share_saturation: float
) -> np.ndarray:
    """Change the colours of some crops.

    Args:
        crop: float32 (3, H, W), values in [0, 1].
        rng: draws which crops are changed, and how.
        share_permuted: of the crops, 0 to 1, whose channels are permuted.
        share_saturation: of the crops, 0 to 1, whose distance from grey is multiplied by 0.5 to 2.
    Returns:
        float32 (3, H, W), values in [0, 1].
    """
    if share_permuted and rng.random() < share_permuted:
        crop = np.ascontiguousarray(rng.permutation(crop))
    if share_saturation and rng.random() < share_saturation:
        grey = crop.mean(0)
        crop = (grey + np.float32(2 ** rng.uniform(-1, 1)) * (crop - grey)).clip(0, 1)
    return crop
