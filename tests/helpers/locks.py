"""File systems without locks."""

from __future__ import annotations

import errno
import os


def refuse_locks(*_) -> None:
    """Take the place of ``fcntl.flock`` as on NFS without its lock daemon."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
