"""How commands end."""

import os

import pytest

from glowlib.errors import KitError, exit_clearly, printable


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (lambda: os.stat("absent"), "error: absent: No such file or directory"),
        (lambda: os.stat("x" * 5000), f"error: {'x' * 5000}: File name too long"),
        (lambda: os.stat("a\0b"), "error: a path holds a null character"),
        (lambda: OSError("no reason"), "error: no reason"),
        (lambda: KitError("there is no new\nline.png"), "error: there is no new\\nline.png"),
    ],
)
def test_what_the_user_can_mend_is_one_line(failure, line, capsys):
    @exit_clearly
    def command():
        raise failure()

    with pytest.raises(SystemExit) as stop:
        command()
    assert stop.value.code == 2
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("a bug"), BrokenPipeError()])
def test_a_bug_is_not_hidden(error):
    @exit_clearly
    def command():
        raise error

    with pytest.raises(type(error)):
        command()


@pytest.mark.parametrize(
    ("text", "line"),
    [("a b.png", "a b.png"), ("写真 é", "写真 é"), ("a\nb\x1b[2J", "a\\nb\\x1b[2J"), (os.fsdecode(b"\xe9"), "\\udce9")],
)
def test_a_message_is_one_line(text, line):
    assert printable(text) == line
