"""What a run tells people: metrics, logs, progress, pictures, tables. Never imports MindSpore."""

from __future__ import annotations

from mindcv_ghost.errors import UserError

__all__ = ["ReportError"]


class ReportError(UserError):
    """A report can't be read or written: a foreign metrics file, a missing optional package."""
