"""Parts of the pages that several of them have."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

__all__ = ["NOT_MEASURED", "NOT_RUN", "mean_and_spread", "table"]

NOT_MEASURED = "not measured"
NOT_RUN = "not run"


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a table.

    >>> print(table(("a", "b"), [(1, "x|y")]), end="")
    | a | b |
    | --- | --- |
    | 1 | x\\|y |
    """
    lines = [head, ["---"] * len(head), *rows]
    escaped = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in escaped)


def mean_and_spread(values: Sequence[float]) -> str:
    """Format the mean and the standard deviation over seeds.

    >>> mean_and_spread([93.0, 94.0, 95.0]), mean_and_spread([93.0]), mean_and_spread([])
    ('94.00 ± 1.00', '93.00', 'not run')
    """
    if not values:
        return NOT_RUN
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{spread}"
