"""TensorBoard events through tensorboardX, where it is installed.

MindSpore's own ``SummaryRecord`` isn't used: it starts a process that polls a queue in a loop and
eats a core (measured with MindSpore 2.8.0 on 2 CPU cores: 0.25 -> 0.86 s a training step merely by
its being there).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from mindcv_ghost.report.logs import LOGGER_NAME

__all__ = ["EventsLog"]


class EventsLog:
    """Write scalars for TensorBoard; does nothing where tensorboardX isn't installed.

    Args:
        folder: where the event file goes; created with the first value.
        enabled: False on every rank but 0.
    """

    def __init__(self, folder: str | os.PathLike, enabled: bool = True) -> None:
        self.folder = Path(folder)
        self._writer = None
        self._writer_class = _find_writer() if enabled else None

    def __enter__(self) -> EventsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def active(self) -> bool:
        """Whether values are written."""
        return self._writer_class is not None

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """Write ``{"train/loss": 0.5, ...}`` for ``step``; None isn't written.

        Args:
            step: the horizontal axis in TensorBoard: steps or epochs, the same for a tag always.
            values: by tag.
        """
        if self._writer_class is None:
            return
        if self._writer is None:
            self._writer = self._writer_class(str(self.folder))
        for tag, value in values.items():
            if value is not None:
                self._writer.add_scalar(tag, float(value), step)
        self._writer.flush()

    def close(self) -> None:
        """End the event file; calling it twice is harmless."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _find_writer() -> type | None:
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    except Exception as error:  # a protobuf that doesn't suit it raises TypeError
        logging.getLogger(LOGGER_NAME).warning(
            "tensorboardX is installed but can't be imported (%s): no TensorBoard events", error
        )
        return None
    return SummaryWriter
