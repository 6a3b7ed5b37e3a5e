"""Trained networks: shipped models, weights files, the Hugging Face Hub, the paper's own weights."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..errors import KitError
from ..files import atomic_write, data_folder, sha256, shipped_folder, user_path
from . import NETWORKS, OPTIONS, require_known
from .convert import STATE_DICTS, build_with, from_original, unwrap

DRIVE_ID = "19YrFIHw0todZ5O7c1H0XUOIFkF6V8WU1"  # the paper's own S-GLOWNet weights
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # of weights files, so not of a repository's name
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")  # "owner/name"


class Models(NamedTuple):
    """Names: `networks` that create_model knows, `shipped` models that load_pretrained knows."""

    networks: list[str]
    shipped: list[str]


def list_models() -> Models:
    """`Models(networks, shipped)`: two sorted lists of names."""
    return Models(sorted(NETWORKS), sorted(p.parent.name for p in shipped_folder().glob("*/model.safetensors")))


def read_weights(path: Path) -> tuple[Any, Any]:
    """What is in a weights file; code in it is never run.

    Args:
        path: a .safetensors file, or one that torch.save wrote.
    Returns:
        (content, description): tensors by name, for torch.save's whatever was saved; and this kit's description of
        the network, None without one.
    Raises:
        KitError: for a file that cannot be read, is damaged, holds code, or claims more values than it holds.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, "pt") as file:
                description = (file.metadata() or {}).get("glowlib")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, None if description is None else json.loads(description)
        size = path.stat().st_size
        claimed = size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as members:
                claimed = sum(member.file_size for member in members.infolist())
        if claimed <= size:  # torch.save does not compress: whatever unpacks to more is not its file
            return torch.load(path, map_location="cpu", weights_only=True), None
    except OSError as error:
        raise KitError(f"cannot read {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise KitError(f"{path} is not a whole safetensors file: {error}") from error
    except Exception as error:  # torch.load raises whatever the bytes lead it to
        reason = "it holds Python objects, which are never loaded" if "Weights only" in str(error) else "it is damaged"
        raise KitError(f"{path} is no weights file the kit can open: {reason}, or is of another kind") from error
    raise KitError(f"{path} is no weights file the kit can open: its parts are compressed")


def described_network(tensors: dict, description: Any, hints: dict[str, Any]) -> nn.Module:
    """The network that a description of this kit names, with these weights."""
    try:
        if not isinstance(description, dict) or not isinstance(description.get("options"), dict):
            raise KitError('"network" or "options" is missing')
        name, options = description.get("network"), description["options"]
        for option, hint in hints.items():
            require_known("hint", option, OPTIONS)
            if options.get(option, hint) != hint:
                raise KitError(f"{option} is {options[option]!r}, not {hint!r}")
        return build_with(name, options, tensors)
    except Exception as error:  # a description raises whatever its values lead to
        reason = str(error).splitlines()[-1].strip() if str(error) else type(error).__name__
        raise KitError(f"it does not hold the network that its description names: {reason}") from error


def fetch_from_hub(name: str) -> list[Path]:
    """The paths of a Hugging Face repository's model.safetensors and config.json, fetched into its own cache."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise KitError(
            f"there is no file {name}; to fetch it from the Hugging Face Hub: pip install glowlib[hub]"
        ) from error
    try:
        return [Path(hf_hub_download(name, file)) for file in ("model.safetensors", "config.json")]
    except Exception as error:  # no network, no such repository, no such file in it: each has its own class
        raise KitError(
            f"there is no file {name}, and the Hugging Face Hub gave no model.safetensors and config.json of that name "
            f"({type(error).__name__})"
        ) from error


def read_config(path: Path) -> Any:
    """This kit's description of a network in a config.json, or None where another program wrote that."""
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise KitError(f"its {path.name} is not JSON: {error}") from error
    return config if isinstance(config, dict) and {"network", "options"} <= set(config) else None


def load_pretrained(name_or_path: str | Path, **hints: Any) -> nn.Module:
    """A trained network.

    Args:
        name_or_path: a shipped model's name (see `list_models`); or a weights file, of this kit or the original's; or
            "owner/name", a repository on the Hugging Face Hub with model.safetensors and config.json, for which
            `pip install glowlib[hub]` is needed. Nothing in a file is ever run.
        **hints: for files without a description of this kit, see `from_original`.
    Returns:
        The network, in eval mode, float32, on the CPU.
    Raises:
        KitError: for an unknown name, a missing or damaged file, a hint that is missing or wrong, and weights
            that do not fit or are not finite. Memory is taken only for weights that are in the file.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise KitError(f"expected the name of a model or the path of a weights file, not {name_or_path!r}")
    path, name = user_path(name_or_path), str(name_or_path)
    shipped, config = list_models().shipped, None
    if name in shipped:
        path = shipped_folder() / name / "model.safetensors"
    elif not os.path.exists(path):  # unlike Path.exists, also for names that no file can have
        if path.suffix.lower() not in SUFFIXES and HUB_NAME.fullmatch(name):
            path, config = fetch_from_hub(name)
        elif path.suffix or len(path.parts) > 1:
            raise KitError(f"there is no file {path}; shipped models are: {', '.join(shipped) or 'none'}")
        else:
            require_known("shipped model", name, shipped)
    content, description = read_weights(path)
    try:
        if description is None and config is not None:
            description = read_config(config)
        if description is not None:
            return described_network(content, description, hints)
        tensors = unwrap(content)
        sizes = [torch.inf if t.is_meta else t.numel() * t.element_size() for t in tensors.values()]
        if sum(sizes) > path.stat().st_size:
            raise KitError("its tensors claim more values than the file holds")
        return from_original(tensors, **hints)
    except KitError as error:
        raise KitError(f"{path}: {error}{where_found(path, content)}") from error


def where_found(path: Path, content: Any) -> str:
    """For a message: the key of a file under which its weights are, and the exported weights beside a checkpoint."""
    keys = [key for key in STATE_DICTS if isinstance(content, dict) and isinstance(content.get(key), dict)]
    beside = path.with_name("model.safetensors")
    hint = f"; {beside} beside it has the description" if beside.exists() and beside != path else ""
    return (f" (weights under {keys[0]!r})" if keys else "") + hint


def download_pretrained(folder: str | Path | None = None) -> Path:
    """Fetch the paper's own S-GLOWNet weights from Google Drive.

    No hash was published: the SHA-256 of the first download is shown and recorded beside the file, and later calls
    compare it.

    Args:
        folder: where to keep them, by default `pretrained` in the data folder.
    Returns:
        The path of the file.
    Raises:
        KitError: where the download fails; it says what to fetch by hand, and where to put it. Also where
            the file has changed since it was recorded.
    """
    folder = Path(folder) if folder is not None else data_folder() / "pretrained"
    path, record = folder / "sglownet-original.pth", folder / "sglownet-original.pth.sha256"
    if not path.exists():
        by_hand = f"fetch https://drive.google.com/file/d/{DRIVE_ID}/view in a browser and save it as {path}"
        try:
            import gdown

            folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                if gdown.download(id=DRIVE_ID, output=str(temporary), quiet=True) is None:
                    raise ConnectionError("gdown fetched nothing")
                read_weights(temporary)  # a page that says why there is no file is no checkpoint
        except Exception as error:  # no network, a full quota, a moved file: each has its own class
            reason = type(error.__cause__ if isinstance(error, KitError) else error).__name__
            raise KitError(f"the download failed ({reason}); {by_hand}") from error
    digest = sha256(path)
    if not record.exists():
        read_weights(path)
        record.write_text(f"{digest}  {path.name}\n")
    elif record.read_text(errors="replace").split()[:1] != [digest]:
        raise KitError(f"{path} has changed since {record.name} was written: remove both and fetch it again")
    print(f"{path.name}: SHA-256 {digest}")
    return path
