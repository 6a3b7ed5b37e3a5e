"""Arrows point one way: each room imports only the rooms below it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "glowlib"
LEAVES = {"errors", "files"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "device": {"errors"},
    "networks": LEAVES,
    "data": LEAVES,
    "training": {*LEAVES, "networks", "data", "device"},
    "evaluation": {*LEAVES, "networks", "data", "device"},
    "experiments": {*LEAVES, "networks", "data", "device", "training", "evaluation"},
    "integrations": {*LEAVES, "networks", "data", "device", "training", "evaluation", "experiments"},
}


def imported(path):
    """Dotted names, below glowlib, of what a file imports from the package; relative imports too, in functions too."""
    package = ["glowlib", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name.removeprefix("glowlib.") for name in names if name.split(".")[0] == "glowlib")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_is_below_them(room):
    allowed = {room, *MAY_IMPORT[room]}
    paths = [*(PACKAGE / room).rglob("*.py"), *PACKAGE.glob(f"{room}.py")]
    assert paths
    for path in paths:
        for name in imported(path):
            assert any(f"{name}.".startswith(f"{place}.") for place in allowed), f"{path}: {name}"
