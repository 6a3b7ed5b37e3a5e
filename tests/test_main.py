"""`python -m glowlib`: one door, whose commands are found without importing them all."""

import subprocess
import sys
from importlib.util import find_spec

import pytest

from glowlib.__main__ import COMMANDS, main


def test_help_lists_every_command(capsys):
    for argv in (["--help"], []):
        main(argv)
        lines = capsys.readouterr().out.splitlines()[2:]
        assert [line.split()[0] for line in lines] == list(COMMANDS)


def test_an_unknown_command_is_one_line(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["denoize"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: unknown command 'denoize'")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name, capsys):
    assert find_spec(f"glowlib.{COMMANDS[name][0]}")
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_only_the_module_of_a_command_is_imported():
    program = """
import sys
from glowlib.__main__ import main
try:
    main(["denoise", "--help"])
except SystemExit:
    print(*(name for name in sys.modules if name.startswith("glowlib.")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    assert "glowlib.evaluation.denoise_folder" in loaded
    assert not any(name.startswith(("glowlib.experiments", "glowlib.training")) for name in loaded)
