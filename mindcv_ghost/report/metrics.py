"""``metrics.csv``: one row per epoch, synced to the disk before the next epoch begins."""

from __future__ import annotations

import csv
import io
import os
import re
from pathlib import Path

from mindcv_ghost.report import ReportError
from mindcv_ghost.storage.atomic_file import write_bytes

__all__ = ["MetricsLog", "last_run", "read_metrics", "topk_name"]

_WHOLE_NUMBERS = ("epoch", "step")


def topk_name(num_classes: int) -> str:
    """Name the second accuracy: top-5, or top-k of all classes if there are fewer than five.

    >>> topk_name(1000), topk_name(10), topk_name(3)
    ('top5', 'top5', 'top3')
    """
    return f"top{min(5, num_classes)}"


def columns(num_classes: int, teacher: bool = False) -> tuple[str, ...]:
    """Return the columns of ``metrics.csv`` for a task with ``num_classes`` classes.

    With a teacher the parts of the loss are among them: how far the student is from the labels and
    from the teacher.

    >>> columns(3)[4:7]
    ('val_loss', 'top1', 'top3')
    >>> columns(3, teacher=True)[2:5]
    ('loss', 'hard_loss', 'soft_loss')
    """
    topk = topk_name(num_classes)
    accuracies = ("top1",) if topk == "top1" else ("top1", topk)
    parts = ("hard_loss", "soft_loss") if teacher else ()
    return (
        *("epoch", "step", "loss", *parts, "lr", "val_loss"),
        *accuracies,
        *("images_per_second", "epoch_seconds", "compile_seconds"),
    )


class MetricsLog:
    """Appends epochs to ``metrics.csv``. Rows that were appended survive a crash of the machine.

    Each row replaces the whole file atomically, so that the file never holds half a row. An epoch
    adds about a hundred bytes.

    Args:
        path: the CSV file. It is created with its folder and header, or appended to.
        num_classes: classes of the task, which determine the top-k column.
        teacher: whether the loss has parts, which get columns. A run that began without a teacher
            and goes on with one has them empty until then; one that goes on without keeps them.

    Attributes:
        text: the whole file's text, also if the disk didn't take the last rows.

    Raises:
        ReportError: if the file exists and has another header, or isn't text.
    """

    def __init__(self, path: str | os.PathLike, num_classes: int, teacher: bool = False) -> None:
        self.path = Path(path)
        self.num_classes = num_classes
        self.columns = columns(num_classes, teacher)
        self.topk = topk_name(num_classes)
        self.text = ""
        self._open()

    def append(self, **values: float | int | None) -> None:
        """Write one epoch and sync it to the disk.

        Args:
            **values: column -> value (``epoch=3, loss=0.5, ...``); ``topk`` stands for the top-k
                column of any k. A value that is missing or None becomes an empty cell.

        Raises:
            TypeError: if a name isn't a column.
            OSError: if the disk doesn't take the row. It is then written with the next one.
        """
        if "topk" in values:
            topk = values.pop("topk")
            values.setdefault(self.topk, topk)
        unknown = [name for name in values if name not in self.columns]
        if unknown:
            raise TypeError(f"no such metric: {', '.join(unknown)} (there is {self.columns})")
        row = io.StringIO()
        cells = (_cell(name, values.get(name)) for name in self.columns)
        csv.writer(row, lineterminator="\n").writerow(cells)
        self.text += row.getvalue()
        self.write()

    def write(self) -> None:
        """Write all rows, including those that a full disk didn't take before.

        Raises:
            OSError: if the disk doesn't take them. The file is then unchanged.
        """
        write_bytes(self.path, self.text.encode())

    def restore(self, text: str) -> None:
        """Replace the file by that of the run that is resumed.

        Args:
            text: that run's :attr:`text`.

        Raises:
            ReportError: if it has another header.
        """
        self._take_over(text)
        self.write()

    def _open(self) -> None:
        header = ",".join(self.columns)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = _read(self.path) if self.path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if not whole:
            # A killed process may leave a part of the header.
            if text and not header.startswith(text):
                raise _other_header(self.path, text, header)
            whole = header + "\n"
        # A last row without a line end is incomplete and is dropped.
        self._take_over(whole)
        self.write()

    def _take_over(self, text: str) -> None:
        """Continue a file's text, whose run may have had no teacher, or had one."""
        plain, with_parts = (columns(self.num_classes, teacher) for teacher in (False, True))
        found = text[:200].split("\n", 1)[0].rstrip("\r")
        if found == ",".join(with_parts):
            self.columns = with_parts
        elif found != ",".join(plain):
            raise _other_header(self.path, found, ",".join(self.columns))
        elif self.columns == with_parts:
            place = with_parts.index("hard_loss")
            rows = [line.split(",") for line in text.splitlines()[1:]]
            rows = [[*with_parts], *([*row[:place], "", "", *row[place:]] for row in rows)]
            text = "".join(",".join(row) + "\n" for row in rows)
        self.text = text


def read_metrics(path: str | os.PathLike) -> list[dict[str, float | int | None]]:
    """Read ``metrics.csv``.

    Args:
        path: the CSV file. A last row without a line end is incomplete and is left out.

    Returns:
        one dict per epoch: column -> value, None for an empty cell.

    Raises:
        ReportError: if there is no such file, or :class:`MetricsLog` didn't write it.
    """
    path = Path(path)
    if not os.path.isfile(path):  # Path's is_file raises for a name that is too long
        raise ReportError(f"no metrics file {path}: train first, its run folder holds metrics.csv")
    text = _read(path)
    lines = text[: text.rfind("\n") + 1].splitlines()
    header = lines[0].split(",") if lines else []
    topk = [name for name in header if re.fullmatch(r"top[2-5]", name)]
    classes = int(topk[0][3:]) if topk else 1
    if tuple(header) not in (columns(classes), columns(classes, teacher=True)):
        first = lines[0] if lines else "nothing"
        raise ReportError(f"{path} is not a metrics file of a training run: it starts with {first}")
    rows = []
    for number, cells in enumerate(csv.reader(lines[1:]), start=2):
        if len(cells) != len(header):
            raise ReportError(f"{path}:{number}: {len(cells)} cells, expected {len(header)}")
        try:
            rows.append({k: _value(k, cell) for k, cell in zip(header, cells)})
        except ValueError as error:
            raise ReportError(f"{path}:{number}: {error}") from None
    return rows


def last_run(rows: list[dict]) -> list[dict]:
    """Return the rows of the last run, if several runs were written into one folder.

    A run begins where the epoch number doesn't increase.

    >>> last_run([{"epoch": 1}, {"epoch": 2}, {"epoch": 1}, {"epoch": 2}, {"epoch": 3}])
    [{'epoch': 1}, {'epoch': 2}, {'epoch': 3}]
    """
    start = 0
    for i in range(1, len(rows)):
        if rows[i]["epoch"] <= rows[i - 1]["epoch"]:
            start = i
    return rows[start:]


def _cell(name: str, value: float | int | None) -> str:
    if value is None:
        return ""
    if name in _WHOLE_NUMBERS:
        return str(int(value))
    # Eight digits keep a float32's precision; repr() would add the digits of its conversion.
    return f"{float(value):.8g}"


def _value(name: str, cell: str) -> float | int | None:
    if cell == "":
        return None
    return int(cell) if name in _WHOLE_NUMBERS else float(cell)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ReportError(f"{path} is not a text file: move it away and start again") from None
    except OSError as error:
        raise ReportError(f"{path} can't be read ({error.strerror})") from None


def _other_header(path: Path, found: str, expected: str) -> ReportError:
    return ReportError(
        f"{path} belongs to another kind of run.\n"
        f"  its columns: {found}\n  this run's: {expected}\n"
        "Give this run a folder of its own (--ckpt_save_dir), or move that file away."
    )
