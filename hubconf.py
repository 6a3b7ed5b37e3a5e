"""The shipped models by torch.hub: torch.hub.load("OWNER/REPOSITORY", "sglownet_small"), or source="local" in a clone.

Each returns a network in eval mode: (batch, 3, H, W), any H and W, values in [0, 1] under noise -> the same shape.
"""

dependencies = ["torch", "timm", "einops", "safetensors", "numpy", "PIL", "skimage", "scipy"]


def _shipped(name):
    from glowlib import load_pretrained

    return load_pretrained(name)


def sunet_small():
    """SUNet: Swin windows in a U-Net, patches only."""
    return _shipped("sunet-small")


def gcunet_small():
    """GCUNet: global context blocks in a U-Net."""
    return _shipped("gcunet-small")


def glownet_small():
    """GLOWNet: windows and global context in parallel."""
    return _shipped("glownet-small")


def sglownet_small():
    """S-GLOWNet: global context first, then windows that attend to it."""
    return _shipped("sglownet-small")
