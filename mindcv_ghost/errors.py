"""What a user can cause, and is told in one message without a traceback."""

from __future__ import annotations

import functools
import sys
from typing import Callable, TypeVar

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "LaunchError",
    "UserError",
    "tells_user_errors",
]

_Arguments = TypeVar("_Arguments")


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


def tells_user_errors(main: Callable[[_Arguments], int]) -> Callable[[_Arguments], int]:
    """Let a command's ``main(argv) -> status`` end a UserError with ``error: ...`` and status 2."""

    @functools.wraps(main)
    def telling(argv: _Arguments = None) -> int:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return telling
