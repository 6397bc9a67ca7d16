"""Compares the names and shapes in a file with those that a network or a run needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mindcv_ghost.errors import near_names

__all__ = ["Mismatch", "compare"]

_LISTED = 10
_COMPARED = 2000  # names among which a similar one is looked for: 0.2 s for ten


@dataclass(frozen=True)
class Mismatch:
    """Differences between a file and what is expected of it; false if there are none.

    Args:
        missing: names that are expected and not in the file.
        unexpected: names in the file that aren't expected.
        reshaped: shape in the file and expected shape of the names where they differ.
    """

    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        """List at most ten names of each kind, one a line.

        Beside a missing name stands a similar unexpected one, and the other way round.
        """
        shapes = [
            f"{name}: file {found}, expected {expected}"
            for name, (found, expected) in self.reshaped.items()
        ]
        lines = []
        for title, names, others in (
            ("missing in the file", self.missing, self.unexpected),
            ("unexpected in the file", self.unexpected, self.missing),
            ("of another shape", shapes, []),
        ):
            if names:
                lines.append(f"  {len(names)} {title}:")
            for name in names[:_LISTED]:
                near = near_names(name, others[:_COMPARED], cutoff=0.8)
                lines.append(f"    {name}" + (f" (there is {near[0]})" if near else ""))
            if len(names) > _LISTED:
                lines.append(f"    ... and {len(names) - _LISTED} more")
        return "\n".join(lines)


def compare(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> Mismatch:
    """Compare shapes by name.

    Args:
        found: in the file.
        expected: by the network or the run.
    """
    return Mismatch(
        missing=[name for name in expected if name not in found],
        unexpected=[name for name in found if name not in expected],
        reshaped={
            name: (found[name], shape)
            for name, shape in expected.items()
            if name in found and found[name] != shape
        },
    )
