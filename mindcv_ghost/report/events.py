"""TensorBoard events, written by tensorboardX where it is installed.

MindSpore's own ``SummaryRecord`` isn't used. It starts a process that polls a queue in a loop and
needs a core: with MindSpore 2.8.0 on 2 CPU cores a training step took 0.86 s instead of 0.25 s as
soon as a ``SummaryRecord`` existed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, cast

__all__ = ["EventsLog"]


class EventsLog:
    """Write scalars for TensorBoard; does nothing where tensorboardX isn't installed.

    Args:
        folder: where the event file goes; created with the first value.
        enabled: False to write nothing.
    """

    def __init__(self, folder: str | os.PathLike, enabled: bool = True) -> None:
        self.folder = Path(folder)
        self._writer: Any = None  # tensorboardX's EventsWriter, made with the first value
        self._tensorboard = _find_tensorboard() if enabled else None

    def __enter__(self) -> EventsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def scalars(self, step: int, values: dict[str, float | None]) -> None:
        """Write one value per tag, such as ``{"train/loss": 0.5}``.

        Args:
            step: the position on TensorBoard's horizontal axis: a step or an epoch. A tag should
                always use the same unit.
            values: tag -> value; None isn't written.
        """
        if self._tensorboard is None:
            return
        try:
            if self._writer is None:
                self.folder.mkdir(exist_ok=True)  # not its parents: see storage/atomic_file.py
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
        """Close the event file. It may be called twice."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None


class _TensorBoard:
    """The parts of tensorboardX that are used.

    Its SummaryWriter isn't: it writes in a thread. A full disk ends that thread, and the training
    then waits forever to put an event into the thread's queue (tensorboardX 2.6).
    """

    def __init__(self) -> None:
        with _without_torch():
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2

        self.writer, self._event = event_file_writer.EventsWriter, event_pb2.Event
        self._scalar = summary.scalar

    def event(self, tag: str, value: float, step: int) -> object:
        """Return an event that holds one value."""
        return self._event(
            wall_time=time.time(), step=step, summary=self._scalar(tag, value, display_name=tag)
        )


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Keep tensorboardX from importing PyTorch, which takes 2 s and isn't needed."""
    if "torch" in sys.modules:
        yield
        return
    # None makes `import torch` raise ImportError.
    sys.modules["torch"] = cast(ModuleType, None)
    try:
        yield
    finally:
        del sys.modules["torch"]


def _find_tensorboard() -> _TensorBoard | None:
    try:
        return _TensorBoard()
    except ImportError:
        return None
    except Exception as error:  # an incompatible protobuf raises TypeError
        logging.getLogger(__name__).warning(
            "tensorboardX is installed but can't be imported (%s): no TensorBoard events", error
        )
        return None
