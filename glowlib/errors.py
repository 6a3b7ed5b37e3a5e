"""The one error that speaks to users."""

import functools
import operator
import sys


class KitError(ValueError):
    """Something the user can mend. The message is one line and says what to do."""


def whole_number(value, least: int, message: str) -> int:
    """value as an int, NumPy's integers too; KitError(message) where it is none, or below `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise KitError(f"{message}, not {value!r}")
    return number


def exit_clearly(main):
    """Decorate a command's main function: a KitError ends it with one line and exit status 2."""

    @functools.wraps(main)
    def command(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except KitError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)

    return command
