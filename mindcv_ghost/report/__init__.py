"""What a run tells people: log, progress, metrics, TensorBoard events, pictures.

Comes in: numbers that the training loop and the validation hand over, one epoch or step at a time.
Goes out: lines on the terminal and in ``train.log`` (``logs.py``, ``progress.py``), ``metrics.csv``
(``metrics.py``), ``events`` (``events.py``), and validate.py's results (``evaluation.py``).
``plots.py`` draws the learning curve and the confusion matrix, ``show.py`` summarises a run folder.
Start with ``metrics.py``. Nothing here imports MindSpore, or knows where the numbers come from.
"""

from __future__ import annotations

from mindcv_ghost.errors import UserError

__all__ = ["ReportError"]


class ReportError(UserError):
    """A report can't be read or written: a foreign metrics file, a missing optional package."""
