"""The text log. Rank 0 logs to the terminal and ``train.log``, other ranks only warnings."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

__all__ = ["LOGGER_NAME", "setup_logging"]

LOGGER_NAME = "mindcv_ghost"


def setup_logging(
    folder: str | os.PathLike | None, rank: int = 0, *, name: str = "train"
) -> logging.Logger:
    """Set up the handlers of the package's logger, in place of those of an earlier call.

    Rank 0 writes ``time message`` lines to standard output, above a tqdm bar if one is shown, and
    appends them to ``<name>.log``. Other ranks write only warnings and errors, and only to
    ``<name>_rank<k>.log``, which is created with the first one.

    Args:
        folder: the run folder, which is created; None: no files.
        rank: this process's rank.
        name: stem of the log files.

    Returns:
        the logger ``mindcv_ghost``. A record with ``extra={"console": False}`` goes to the file
        only.

    Raises:
        OSError: if the folder can't be written.
    """
    logger = logging.getLogger(LOGGER_NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    # MindSpore and MindCV add handlers to the root logger, which would print every line again.
    logger.propagate = False
    if rank == 0:
        logger.addHandler(_Console())
    if folder is not None:
        logger.addHandler(_file_handler(Path(folder), rank, name))
    if not logger.handlers:
        # Without a handler, logging.lastResort would print warnings on every rank.
        logger.addHandler(logging.NullHandler())
    return logger


def _file_handler(folder: Path, rank: int, name: str) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    stem = name if rank == 0 else f"{name}_rank{rank}"
    # delay=True creates the file with its first line.
    handler = _File(
        folder / f"{stem}.log", encoding="utf-8", delay=rank != 0, errors="backslashreplace"
    )
    handler.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handler.setFormatter(_Formatter())
    return handler


class _File(logging.FileHandler):
    """A log file. If the disk is full, it warns once instead of printing a traceback per line."""

    _warned = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Warn once of a file that can't be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._warned:
            self._warned = True
            sys.stderr.write(f"warning: {self.baseFilename} has gaps: {error.strerror}\n")


class _Formatter(logging.Formatter):
    """``2026-11-23 17:05:09 message``, with ``warning:`` or ``error:`` before the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """Return the line."""
        if record.levelno > logging.INFO:
            record.message = f"{record.levelname.lower()}: {record.message}"
        return super().formatMessage(record)


class _Console(logging.Handler):
    """The current standard output; lines go above a progress bar."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        """Print the line, unless the record is for the file only."""
        if not getattr(record, "console", True):
            return
        try:
            line = self.format(record)
            tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
            if tqdm is not None and getattr(tqdm, "_instances", None):
                tqdm.write(line, file=sys.stdout)
            else:
                sys.stdout.write(line + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader (`| head`) has ended. Training continues, and the file has every line.
            return
        except Exception:
            self.handleError(record)
