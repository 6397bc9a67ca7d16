"""Records are of code that others can have."""

from __future__ import annotations

from mindcv_ghost.errors import UserError
from mindcv_ghost.storage.provenance import is_repeatable, source_commit

__all__ = ["repeatable_commit"]


def repeatable_commit() -> str:
    """Return the commit of this code, for a record.

    Raises:
        UserError: if files differ from it, or there is none: nobody could repeat the measurement.
    """
    commit = source_commit()
    if commit is None or not is_repeatable(commit):
        raise UserError(f"this code is {commit or 'of no commit'}: commit first, then measure")
    return commit
