"""TensorBoard events through tensorboardX, where it is installed.

MindSpore's own ``SummaryRecord`` isn't used: it starts a process that polls a queue in a loop and
eats a core (measured with MindSpore 2.8.0 on 2 CPU cores: 0.25 -> 0.86 s a training step merely by
its being there).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

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
        self._tensorboard = _find_tensorboard() if enabled else None

    def __enter__(self) -> EventsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def active(self) -> bool:
        """Whether values are written."""
        return self._tensorboard is not None

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """Write ``{"train/loss": 0.5, ...}`` for ``step``; None isn't written.

        Args:
            step: the horizontal axis in TensorBoard: steps or epochs, the same for a tag always.
            values: by tag.
        """
        if self._tensorboard is None:
            return
        try:
            if self._writer is None:
                self.folder.mkdir(exist_ok=True)  # not its parents: see files.replacing
                self._writer = self._tensorboard.writer(str(self.folder / "events"))
            for tag, value in values.items():
                if value is not None:
                    self._writer.write_event(self._tensorboard.event(tag, float(value), step))
            self._writer.flush()
        except OSError as error:
            self._tensorboard = self._writer = None
            logging.getLogger(__name__).warning(
                "%s can't be written (%s): no more TensorBoard events", self.folder, error
            )

    def close(self) -> None:
        """End the event file; calling it twice is harmless."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


class _TensorBoard:
    """What is needed of tensorboardX.

    Not its SummaryWriter: that one writes in a thread, which a full disk ends, and the training
    then waits for ever to put an event into the thread's queue (tensorboardX 2.6).
    """

    def __init__(self) -> None:
        with _without_torch():
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2

        self.writer, self._event = event_file_writer.EventsWriter, event_pb2.Event
        self._scalar = summary.scalar

    def event(self, tag: str, value: float, step: int) -> object:
        return self._event(
            wall_time=time.time(), step=step, summary=self._scalar(tag, value, display_name=tag)
        )


@contextlib.contextmanager
def _without_torch():
    """Hide PyTorch from tensorboardX, which loads it where it is installed: 2 s for nothing."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None
    try:
        yield
    finally:
        del sys.modules["torch"]


def _find_tensorboard() -> _TensorBoard | None:
    try:
        return _TensorBoard()
    except ImportError:
        return None
    except Exception as error:  # a protobuf that doesn't suit it raises TypeError
        logging.getLogger(__name__).warning(
            "tensorboardX is installed but can't be imported (%s): no TensorBoard events", error
        )
        return None
