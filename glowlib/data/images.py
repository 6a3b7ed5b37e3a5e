"""Every kind of image that the kit accepts as one float tensor, and back."""

import numpy as np
import torch
from PIL import Image

from ..errors import KitError


def to_tensor(image):
    """(tensor, rebuild): the colour of `image` as float (batch, 3, H, W), and the way back to its kind.

    image: float array H×W, H×W×1 or H×W×3, clean values in [0, 1]; uint8 or uint16 array, scaled;
    either with alpha as second or fourth channel; PIL image; float tensor batch×3×H×W,
    batch×1×H×W or C×H×W. Grey is repeated to three channels and averaged on the way back;
    alpha is set aside and put back; integers are clipped and rounded; floats are left as they are.
    Raises ValueError for anything else, and for values that are not finite.
    """
    if isinstance(image, Image.Image):
        if image.mode in ("I", "F"):
            raise KitError(f"a PIL image of mode {image.mode} has no known range: give an array of floats in [0, 1]")
        if image.mode.startswith("I;16"):
            image = Image.fromarray(np.asarray(image).astype(np.uint16))
        elif image.mode not in ("L", "RGB", "LA", "RGBA"):
            image = image.convert("RGBA" if image.has_transparency_data else "L" if image.mode == "1" else "RGB")
        tensor, rebuild = to_tensor(np.asarray(image))
        return tensor, lambda restored: Image.fromarray(rebuild(restored))
    if isinstance(image, torch.Tensor):
        fits = image.ndim in (3, 4) and image.shape[-3] in (1, 3) and 0 not in image.shape
        if not fits or not image.is_floating_point():
            raise KitError(
                f"expected a float tensor (batch, 3 or 1, H, W), not {image.dtype} of shape {tuple(image.shape)}"
            )
        if not image.isfinite().all():
            raise KitError("the image holds NaN or infinite values")
        batch = image if image.ndim == 4 else image[None]

        def rebuild_tensor(restored):
            restored = restored.mean(1, keepdim=True) if image.shape[-3] == 1 else restored
            return (restored if image.ndim == 4 else restored[0]).to(image)

        return batch.expand(-1, 3, -1, -1), rebuild_tensor
    if not isinstance(image, np.ndarray):
        raise KitError(f"expected an array, a tensor or a PIL image, not {type(image).__name__}")
    channels = image.shape[2] if image.ndim == 3 else 1
    if image.ndim not in (2, 3) or channels not in (1, 2, 3, 4) or 0 in image.shape:
        raise KitError(f"expected an image H×W or H×W×3, not an array of shape {image.shape}")
    if image.dtype in (np.uint8, np.uint16):
        top = np.iinfo(image.dtype).max
    elif np.issubdtype(image.dtype, np.floating):
        top = 1
        if not np.isfinite(image).all():
            raise KitError("the image holds NaN or infinite values")
    else:
        raise KitError(f"expected float, uint8 or uint16 values, not {image.dtype}")
    colour_channels = 1 if channels < 3 else 3
    colour = image.reshape(*image.shape[:2], channels)[..., :colour_channels]
    work = np.float64 if image.dtype == np.float64 else np.float32
    tensor = torch.from_numpy(np.ascontiguousarray(colour.transpose(2, 0, 1)).astype(work) / work(top))

    def rebuild_array(restored):
        restored = restored[0].mean(0, keepdim=True) if colour_channels == 1 else restored[0]
        restored = restored.detach().cpu().numpy().transpose(1, 2, 0)
        if top > 1:
            restored = np.rint(restored.clip(0, 1) * top)
        restored = restored.astype(image.dtype)
        if channels in (2, 4):
            restored = np.concatenate([restored, image[..., -1:]], axis=2)
        return restored.reshape(image.shape)

    return tensor[None].expand(-1, 3, -1, -1), rebuild_array


def to_array(image):
    """Any accepted kind of one picture as a float array H×W×3 (float64), clean values in [0, 1]."""
    tensor, _ = to_tensor(image)
    if len(tensor) != 1:
        raise KitError(f"expected one image, not a batch of {len(tensor)}")
    array = tensor[0].permute(1, 2, 0).detach().cpu().double().numpy()
    deep = getattr(image, "dtype", None) == np.uint16 or getattr(image, "mode", "") == "I;16"
    if deep or isinstance(image, Image.Image) or getattr(image, "dtype", None) == np.uint8:
        top = 65535 if deep else 255
        array = np.rint(array * top) / top  # exact again, where float32 had rounded
    return array


def centre_crop(image, side):
    """The middle of an array H×W or H×W×channels: `side` pixels a side, or all there are of a shorter one."""
    top, left = ((length - min(length, side)) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
