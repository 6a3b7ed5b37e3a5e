"""The one error that speaks to users, and how a command ends with it."""

import functools
import operator
import sys


class KitError(ValueError):
    """Something the user can fix. The message is one line and says what to do."""


def whole_number(value, least: int, message: str) -> int:
    """value as an int, NumPy's integers too; KitError(message) where it is none, or below `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise KitError(f"{message}, not {value!r}")
    return number


def printable(text) -> str:
    """A file name or message on one line: control characters and bytes that are no text become escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def exit_clearly(main):
    """Decorate a command's main function: a KitError ends it with one line and exit status 2.

    So does what a path leads the operating system to: a name that is too long, a folder without rights, a full disk.
    """

    @functools.wraps(main)
    def command(*args, **kwargs):
        try:
            return main(*args, **kwargs)
        except KitError as error:
            reason = str(error)
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}" if error.filename is not None else str(error)
        except ValueError as error:
            if "embedded null" not in str(error):
                raise
            reason = "a path holds a null character"
        print(f"error: {printable(reason)}", file=sys.stderr)
        sys.exit(2)

    return command
