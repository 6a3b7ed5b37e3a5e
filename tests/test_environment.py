"""Pins, ranges and imports agree, for pip and for conda."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = [*sorted((ROOT / "glowlib").rglob("*.py")), ROOT / "demo_any_resolution.py", ROOT / "hubconf.py", *TESTS]
EXTRAS = ("deepinv", "export", "openvino", "hub", "wheel", "book")


def requirements(lines):
    """{canonical name: Requirement}, refusing a name that comes twice."""
    found = {}
    for line in lines:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} comes twice"
        found[name] = requirement
    return found


def pins(lines):
    """{canonical name: version}, refusing anything but one exact version each."""
    versions = {}
    for name, requirement in requirements(lines).items():
        exact = re.fullmatch(r"==([\w.]+)", str(requirement.specifier))
        assert exact, f"{name} is not pinned to one version: {requirement}"
        versions[name] = exact[1]
    return versions


def pip_pins(file="requirements.txt"):
    lines = (line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return pins(line for line in lines if line)


def ranges(*extras):
    """{canonical name: Requirement} of pyproject.toml, with its extras."""
    project = PYPROJECT["project"]
    return requirements(project["dependencies"] + [r for e in extras for r in project["optional-dependencies"][e]])


def ranges_of(extra):
    """{canonical name: Requirement} of one extra."""
    return requirements(PYPROJECT["project"]["optional-dependencies"][extra])


@cache
def providers():
    """{name to import: canonical names of the installed packages that provide it}."""
    return {name: {canonicalize_name(d) for d in found} for name, found in packages_distributions().items()}


def imported(path, *, inside_functions=True):
    """Top-level names of the packages that a file imports."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree) if inside_functions else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.split(".")[0]


def files_of(name):
    """The files that importing a dotted name below glowlib runs: each package's, and the module's."""
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        place = ROOT.joinpath(*parts[:count])
        yield from (p for p in (place / "__init__.py", place.with_suffix(".py")) if p.exists())


def imported_files(path):
    """The files of glowlib that importing a file imports, relative imports too, directly or not; itself among them."""
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                package = path.relative_to(ROOT).parent.parts
                base = [*package[: len(package) + 1 - node.level]] if node.level else []
                base = ".".join([*base, *([node.module] if node.module else [])])
                names = [f"{base}.{alias.name}" for alias in node.names]
            for name in names:
                if name.split(".")[0] == "glowlib":
                    waiting += files_of(name)
    return found


def test_conda_installs_the_pins_and_nothing_else():
    (of_pip,) = (entry["pip"] for entry in CONDA["dependencies"] if isinstance(entry, dict))
    assert of_pip == ["-r requirements.txt", "-e ."]
    assert {e.split()[0] for e in CONDA["dependencies"] if isinstance(e, str)} == {"python", "pip"}


def test_conda_has_the_same_pythons():
    (python,) = (e for e in CONDA["dependencies"] if isinstance(e, str) and e.startswith("python "))
    assert SpecifierSet(python.removeprefix("python ")) == SpecifierSet(PYPROJECT["project"]["requires-python"])


def test_python_range_is_what_make_accepts():
    check = re.search(r"\(3, (\d+)\) <= sys\.version_info\[:2\] <= \(3, (\d+)\)", (ROOT / "Makefile").read_text())
    lowest, highest = int(check[1]), int(check[2])
    accepted = SpecifierSet(PYPROJECT["project"]["requires-python"])
    inside = [minor for minor in range(lowest - 2, highest + 3) if accepted.contains(f"3.{minor}.0")]
    assert inside == list(range(lowest, highest + 1))


def test_each_pin_is_declared_and_each_declaration_pinned():
    assert set(ranges("notebooks", "dev")) == set(pip_pins())


@pytest.mark.parametrize("name", sorted(ranges("notebooks", "dev")))
def test_pin_is_inside_its_range(name):
    assert ranges("notebooks", "dev")[name].specifier.contains(pip_pins()[name])


def test_extras_are_declared_and_pinned():
    declared, pinned = ranges(*EXTRAS), pip_pins("requirements-extras.txt")
    assert {*EXTRAS, "notebooks", "dev", "peers"} == set(PYPROJECT["project"]["optional-dependencies"])
    assert {name for extra in EXTRAS for name in ranges_of(extra)} == set(pinned)
    assert not set(pinned) & set(pip_pins())
    for name, version in pinned.items():
        assert declared[name].specifier.contains(version), name


def test_each_extra_has_a_reason():
    lines = (ROOT / "requirements-extras.txt").read_text().splitlines()
    assert all("  # " in line for line in lines if "==" in line)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_are_declared(path):
    extras = ("notebooks", "dev", "peers") if path.is_relative_to(ROOT / "tests") else ("notebooks", "peers")
    declared = set(ranges(*extras))
    optional = {"deepinv", "huggingface_hub", "onnx", "onnxruntime", "onnxscript", "openvino"}  # may not be installed
    assert optional == {name.replace("-", "_") for e in EXTRAS if e not in ("wheel", "book") for name in ranges_of(e)}
    local = {"glowlib", *(p.stem for p in (*ROOT.glob("*.py"), *TESTS)), "google"}  # google.colab: on Colab only
    for name in set(imported(path)) - local - optional - set(sys.stdlib_module_names):
        # An optional package that is not installed has the name of its import.
        assert providers().get(name, {canonicalize_name(name)}) & declared, f"{name} is not declared"


def test_core_imports_need_no_extra():
    """`import glowlib` and the command line work after a plain `pip install`; notebooks and deepinv take more."""
    experiments = ROOT / "glowlib" / "experiments"
    needs_more = {experiments / f"{name}.py" for name in ("reproduce", "report", "committed_outputs")}
    needs_more.add(ROOT / "glowlib" / "integrations" / "deepinv.py")  # its class is one of deepinv's
    core = set(ranges())
    for source in set(SOURCES) - set(TESTS) - needs_more:
        for path in imported_files(source):
            for name in set(imported(path, inside_functions=False)) - {"glowlib"} - set(sys.stdlib_module_names):
                assert providers().get(name, set()) & core, f"{source.name}, by {path.name}: {name} needs an extra"


def test_citation_has_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PYPROJECT["project"]["version"]
    assert citation["license"] == PYPROJECT["project"]["license"]
