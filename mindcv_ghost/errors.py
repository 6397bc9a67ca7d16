"""Errors that a user can cause and mend, and how their messages are worded and shown."""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Iterable
from typing import Any, Callable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LaunchError",
    "UserError",
    "did_you_mean",
    "near_names",
    "tells_user_errors",
]


class UserError(Exception):
    """A problem that the user can mend.

    Its text is complete: what was given, what is legal, how to mend it. The scripts print it as
    ``error: ...`` and end with exit status 2.
    """


class ConfigError(UserError):
    """The recipe or the command line asks for something that isn't legal."""


class DataError(UserError):
    """The images aren't where or what they should be."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or doesn't belong to the network."""


class LaunchError(UserError):
    """The processes of a job can't become one cluster."""


def near_names(word: str, names: Iterable[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """Find the names that a misspelt one probably stands for, the nearest first.

    Args:
        word: what was given.
        names: what is legal.
        count: how many names to return at most.
        cutoff: least similarity, from 0 (any name) to 1 (the same name).

    >>> near_names("ghost_resnet5", ["ghost_resnet50", "resnet18", "vgg16"])
    ['ghost_resnet50']
    """
    return difflib.get_close_matches(word, [name for name in names if name], count, cutoff)


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """End a message with the nearest legal name, or with nothing if none is near.

    >>> did_you_mean("momentun", ["adamw", "momentum"]), did_you_mean("x", ["adamw"])
    ("; did you mean 'momentum'?", '')
    """
    near = near_names(word.lower(), names)
    return f"; did you mean {near[0]!r}?" if near else ""


def tells_user_errors(main: Callable[..., int]) -> Callable[..., int]:
    """Make a command's ``main(argv) -> status`` print a UserError and return 2."""

    @functools.wraps(main)
    def telling(argv: Any = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return telling
