"""Errors that the user can fix, and how they are worded and shown."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import Any, Callable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LaunchError",
    "MissingDataError",
    "UserError",
    "did_you_mean",
    "first_line",
    "near_names",
    "tells_user_errors",
    "type_and_first_line",
]


class UserError(Exception):
    """A problem that the user can fix.

    Its text is complete: what was given, what is legal, and how to fix it. The scripts print it as
    ``error: ...`` and exit with status 2.
    """


class ConfigError(UserError):
    """The recipe or the command line has an illegal value."""


class DataError(UserError):
    """Images are missing, unreadable or not what the recipe says."""


class MissingDataError(DataError):
    """Files of a data set aren't there, and might be fetched."""


class CheckpointError(UserError):
    """A checkpoint or an exported file is missing, damaged or doesn't fit what is done with it."""


class LaunchError(UserError):
    """The processes of a job can't form a cluster."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of an exception's message, without MindSpore's rules and dashes.

    MindSpore's messages go on with call stacks.

    >>> first_line(ValueError("----\n- no\n----\nmore")), first_line(KeyError())
    ('no', 'KeyError')
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- \n")]
    return lines[0].removeprefix("- ") if lines else type(error).__name__


def type_and_first_line(error: BaseException) -> str:
    r"""Return an exception's type and the first line of its message, for errors of unknown origin.

    >>> type_and_first_line(ValueError("no\nmore")), type_and_first_line(KeyError())
    ('ValueError: no', 'KeyError')
    """
    name = type(error).__name__
    first = first_line(error)
    return name if first == name else f"{name}: {first}"


def near_names(word: str, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Find the legal names that are most similar to a misspelt one, the most similar first.

    Args:
        word: what was given.
        names: the legal names.
        count: how many names to return at most.
        cutoff: least similarity, from 0 (any name) to 1 (the same name).

    >>> near_names("ghost_resnet5", ["ghost_resnet50", "resnet18", "vgg16"])
    ['ghost_resnet50']
    """
    import difflib  # only where something went wrong: every start imports this module

    return difflib.get_close_matches(word, [name for name in names if name], count, cutoff)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the end of a message that suggests the most similar legal name; "" if none is.

    >>> did_you_mean("momentun", ["adamw", "momentum"]), did_you_mean("x", ["adamw"])
    ("; did you mean 'momentum'?", '')
    """
    near = near_names(word.lower(), names)
    return f"; did you mean {near[0]!r}?" if near else ""


def tells_user_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Decorate a command's ``main(argv) -> status`` to print a UserError and return 2."""

    @functools.wraps(main)
    def wrapper(argv: Any = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return wrapper
