"""The one exception that means: the user can mend this. It ends as one line on stderr, never as a traceback."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

HOME = "run in a checkout, or in a folder that `ssimbad init FOLDER` has laid out"
"""What to do where a command of the pipeline finds none around it."""
_USER = re.compile(r"(?<=://)[^/\s]\S*@")
_OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, those that end lines or turn the direction of writing, and what stands for bytes without text."""
_SECRET = re.compile(r"(?i)([?&;][^=&;\s]*(?:pass|pwd|token|secret|key|sig)[^=&;\s]*=)[^&;\s]*")


def masked(text: str) -> str:
    """The text without the passwords of its addresses: `https://***@host/…`, `…?password=***`."""
    return _SECRET.sub(r"\1***", _USER.sub("***@", text))


def legible(text: str) -> str:
    """The text, of several lines maybe, with everything that a terminal would obey, or could not show, written out:
    `\\x1b`."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(name: object) -> str:
    """A file or whatever else somebody has named, as part of one line."""
    return legible(str(name)).replace("\n", r"\n").replace("\t", r"\t")


def first_line(error: BaseException) -> str:
    """What somebody else's exception says first; its type where it says nothing."""
    return legible(next(iter(str(error).strip().splitlines()), "")) or type(error).__name__


def there(thing: T | None) -> T:
    """What is never None where this is asked: the block of parameters that a stage is for, what a metric needs.

    Raises:
        ValueError: it is None, which is a mistake in the program and not the user's.
    """
    if thing is None:
        raise ValueError("None, where something was sure to be")
    return thing


class UserError(Exception):
    """A wrong input. The message is one line that names the file or key and the remedy, and no password.

    `code` is the exit status: 2 for parameters and command lines, 1 for data.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(masked(legible(" ".join(message.split()))))
        self.code = code


class ParameterError(UserError):
    """A wrong parameter; exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code=2)


@contextmanager
def in_one_line(program: str) -> Iterator[None]:
    """Within it what the user can mend ends the program, with a line on stderr that begins with its name."""
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission, a file server that went away
        told = UserError(f"{error.filename or 'a file'}: {error.strerror or error}")
        print(f"{program}: {told}", file=sys.stderr)
        sys.exit(1)
