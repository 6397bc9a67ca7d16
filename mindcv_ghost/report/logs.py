"""The text log: rank 0 to the terminal and ``train.log``; other ranks only their warnings."""

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
    """Send the project's log where it belongs; calling it again replaces what it set up before.

    Rank 0 writes ``time message`` lines to standard output, above a tqdm bar if one is shown, and
    to ``<name>.log``, which is continued, not replaced. Other ranks are silent, but for warnings
    and errors, which go to ``<name>_rank<k>.log``; without any, there is no such file.

    Args:
        folder: the run folder, created; None: no file.
        rank: this process's rank.
        name: stem of the log files.

    Returns:
        the logger ``mindcv_ghost``. A record logged with ``extra={"console": False}`` reaches the
        file alone.

    Raises:
        OSError: if the folder can't be written.
    """
    logger = logging.getLogger(LOGGER_NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    # MindSpore and MindCV configure the root logger, which would print every line twice.
    logger.propagate = False
    if rank == 0:
        logger.addHandler(_Console())
    if folder is not None:
        logger.addHandler(_file_handler(Path(folder), rank, name))
    if not logger.handlers:
        # Without any handler, Python's last resort prints warnings on every rank.
        logger.addHandler(logging.NullHandler())
    return logger


def _file_handler(folder: Path, rank: int, name: str) -> logging.Handler:
    folder.mkdir(parents=True, exist_ok=True)
    stem = name if rank == 0 else f"{name}_rank{rank}"
    # delay: the file appears with its first line.
    handler = _File(folder / f"{stem}.log", encoding="utf-8", delay=rank != 0)
    handler.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handler.setFormatter(_Formatter())
    return handler


class _File(logging.FileHandler):
    """A log file that a full disk doesn't turn into a traceback for every line."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            sys.stderr.write(f"warning: {self.baseFilename} has gaps: {error.strerror}\n")


class _Formatter(logging.Formatter):
    """``2026-11-23 17:05:09 message``, with ``warning:`` before what isn't plain information."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        if record.levelno > logging.INFO:
            record.message = f"{record.levelname.lower()}: {record.message}"
        return super().formatMessage(record)


class _Console(logging.Handler):
    """Standard output as it is when a line comes, without tearing a progress bar."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
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
            # The reader (`| head`) has gone; training goes on, the file has everything.
            return
        except Exception:
            self.handleError(record)
