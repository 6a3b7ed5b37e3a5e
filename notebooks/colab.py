"""Install what the notebooks need and this Python lacks. What is installed stays as it is, PyTorch and NumPy above all.

The set-up cell of each notebook runs this in a kernel without glowlib, such as Colab's.
"""

import subprocess
import sys
import tempfile
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
wanted = [Requirement(line) for line in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["notebooks"])]
wanted = [requirement for requirement in wanted if requirement.name not in ("jupyterlab", "papermill", "nbconvert")]
installed = {found.metadata["Name"]: found.version for found in metadata.distributions() if found.metadata["Name"]}
names = {name.lower().replace("_", "-"): version for name, version in installed.items()}

missing = []
for requirement in wanted:
    if requirement.marker and not requirement.marker.evaluate():
        continue
    version = names.get(requirement.name.lower().replace("_", "-"))
    if version is None:
        missing.append(str(requirement))
    elif not requirement.specifier.contains(version, prereleases=True):
        print(f"note: {requirement.name} {version} is kept, although the kit was tested with {requirement.specifier}")
if missing:
    pins = []
    for name, version in installed.items():
        with suppress(InvalidRequirement):  # Debian's own packages have versions that pip refuses
            pins.append(str(Requirement(f"{name}=={version}")))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(pins))
        constraints.flush()
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", constraints.name, *missing]
        subprocess.run(command, check=True)
    print("installed:", ", ".join(missing))
