"""What a user can cause, and is told in one message without a traceback."""

from __future__ import annotations

__all__ = ["CheckpointError", "ConfigError", "DataError", "LaunchError", "UserError"]


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
