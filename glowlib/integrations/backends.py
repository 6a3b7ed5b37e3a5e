"""Exported networks in other runtimes, on images of any size.

    model = load_exported("exported/sglownet-small-160.onnx", backend="openvino")
    restored = glowlib.denoise(model, image)

export.py writes the files. ONNX Runtime (https://onnxruntime.ai): pip install glowlib[export]; OpenVINO
(https://docs.openvino.ai): pip install glowlib[openvino]. Both compute in float32 on the CPU, with as
many threads as PyTorch.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import KitError
from ..networks.base import LEAST_LEVEL, pad_to_multiple
from ..networks.config import ModelConfig
from ..networks.noise_level import estimate_sigma


class ExportedModel(nn.Module):
    """An exported network that `glowlib.denoise` takes as one of its own.

    Args:
        run: the runtime's function, arrays (batch, 3, tile, tile) and perhaps (batch,) -> (batch, 3, tile, tile).
        description: {"network", "options", "tile"}, as export.py writes it in the file.
    """

    def __init__(self, run: Callable[[list[np.ndarray]], np.ndarray], description: dict[str, Any]):
        super().__init__()
        self.run, self.name, self.tile = run, description["network"], description["tile"]
        self.config = ModelConfig(**description["options"])
        self.eval()

    def forward(self, image: torch.Tensor, sigma: float | torch.Tensor | None = None) -> torch.Tensor:
        """Restore tiles.

        Args:
            image: (batch, 3 or 1, H, W) of at most the tile's side; smaller ones are padded by reflection.
            sigma: noise level on the 0 to 255 scale, one number or (batch,), in place of the estimate; only for a
                network with noise normalisation.
        Returns:
            (batch, 3, H, W), not clipped.
        Raises:
            KitError: for larger images, and a sigma that the network does not take.
        """
        height, width = image.shape[-2:]
        if max(height, width) > self.tile:
            raise KitError(
                f"this file restores tiles of {self.tile}×{self.tile} pixels, not {height}×{width}: use denoise"
            )
        inputs = [pad_to_multiple(image.expand(-1, 3, -1, -1), self.tile)]
        if self.config.noise_normalisation:
            level = estimate_sigma(inputs[0]).clamp(min=LEAST_LEVEL) if sigma is None else torch.as_tensor(sigma)
            inputs.append(level.expand(len(image)))
        elif sigma is not None:
            raise KitError(f"this {self.name} has no noise normalisation: leave sigma out")
        restored = self.run([tensor.detach().cpu().float().contiguous().numpy() for tensor in inputs])
        return torch.from_numpy(restored)[..., :height, :width].to(image)


def open_onnxruntime(path: Path) -> tuple[Callable, dict[str, str]]:
    """(function of arrays, metadata) of an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    metadata = session.get_modelmeta().custom_metadata_map
    return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))[0], metadata


def open_openvino(path: Path) -> tuple[Callable, dict[str, str]]:
    """(function of arrays, metadata) of an ONNX file in OpenVINO."""
    import openvino

    model = openvino.Core().read_model(path)
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    hints |= {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.compile_model(model, "CPU", hints)
    metadata = {"glowlib": model.get_rt_info(["framework", "glowlib"]).astype(str)}
    return lambda arrays: compiled.create_infer_request().infer(arrays)[0].copy(), metadata


# backend -> (how to open a file, the extra that brings it)
BACKENDS = {"onnxruntime": (open_onnxruntime, "export"), "openvino": (open_openvino, "openvino")}


def load_exported(path: str | Path, backend: str = "onnxruntime") -> ExportedModel:
    """A model of an .onnx file that `python -m glowlib export` wrote.

    Args:
        path: the file.
        backend: "onnxruntime" or "openvino".
    Returns:
        A model that `glowlib.denoise` takes, on the CPU.
    Raises:
        KitError: for an unknown backend or one that is not installed, and a file that is missing or another's.
    """
    if backend not in BACKENDS:
        raise KitError(f"unknown backend {backend!r}; known are: {', '.join(BACKENDS)}")
    opened, extra = BACKENDS[backend]
    path = Path(path)
    if not path.is_file():
        raise KitError(f"there is no file {path}")
    try:
        run, metadata = opened(path)
        return ExportedModel(run, json.loads(metadata["glowlib"]))
    except ImportError as error:
        raise KitError(f"{backend} is not installed: pip install glowlib[{extra}]") from error
    except Exception as error:  # each runtime has its own errors for files of another kind
        raise KitError(
            f"{path} is not a file that python -m glowlib export wrote: {str(error).splitlines()[0]}"
        ) from error
