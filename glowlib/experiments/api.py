"""docs/api.md: the public functions, from their signatures and docstrings. `python -m glowlib cards` writes it."""

import inspect
import re
from collections.abc import Callable

from ..data.metrics import psnr, ssim
from ..data.noise import add_noise
from ..evaluation.tiling import denoise
from ..networks import create_model
from ..networks.convert import from_original
from ..networks.pretrained import download_pretrained, list_models, load_pretrained

FUNCTIONS = (
    create_model,
    load_pretrained,
    list_models,
    denoise,
    add_noise,
    psnr,
    ssim,
    from_original,
    download_pretrained,
)
SECTIONS = ("Args", "Returns", "Raises")


def split_docstring(text: str) -> dict[str, str]:
    """A docstring in parts: "" for what stands before the sections, then "Args", "Returns" and "Raises"."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):\n", text, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    return {"": parts[0].strip()} | {name: inspect.cleandoc(body) for name, body in sections}


def arguments(function: Callable, text: str) -> dict[str, str]:
    """The section Args in parts: {"clean, restored": "one image …"}, in the order of the docstring.

    Args:
        function: its signature says which words are arguments.
        text: the body of the section; an argument begins a line or follows the end of a sentence.
    """
    known = "|".join(inspect.signature(function).parameters)
    pattern = rf"(?:^|(?<=\. ))((?:\*\*)?(?:{known})(?:, (?:{known}))*): "
    parts = re.split(pattern, " ".join(text.split()))
    if parts[0]:  # lines of one argument each are joined above, so that each begins after a full stop
        raise ValueError(f"{function.__name__}: {parts[0]!r} names no argument")
    return dict(zip(parts[1::2], (part.strip() for part in parts[2::2]), strict=True))


def entry(function: Callable) -> str:
    """The Markdown of one public function."""
    parts = split_docstring(inspect.getdoc(function))
    signature = inspect.signature(function)
    plain = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in signature.parameters.values()],
        return_annotation=signature.empty,
    )
    call = f"glowlib.{function.__name__}{plain}".replace("'", '"')
    lines = [f"## {function.__name__}", f"```python\n{call}\n```", parts[""]]
    if "Args" in parts:
        found = arguments(function, parts["Args"])
        lines.append("\n".join(f"- **{name.replace('*', '')}**: {text}" for name, text in found.items()))
    lines += [f"**{name}:** {' '.join(parts[name].split())}" for name in SECTIONS[1:] if name in parts]
    return "\n\n".join(lines)


def page() -> str:
    """The text of docs/api.md."""
    head = (
        "# The public functions\n\n"
        "`import glowlib` gives all of them. This page is made from their docstrings by `python -m glowlib cards`.\n"
        "A mistake of the user raises `glowlib.KitError`, a ValueError of one line that says what to do."
    )
    return "\n\n".join([head, *map(entry, FUNCTIONS)]) + "\n"
