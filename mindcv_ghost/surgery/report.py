"""The report of :func:`ghostify`: as a table for people and as plain values for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mindcv_ghost.analysis.complexity import ComplexityReport
from mindcv_ghost.surgery.convolutions import ConvolutionSite

__all__ = ["GhostifyReport", "Replacement"]


@dataclass(frozen=True)
class Replacement:
    """One convolution, and whether a Ghost module replaced it.

    Args:
        name: path of the convolution.
        convolution: its size, for example "3x3, 64 -> 128, stride 2".
        replaced: whether a Ghost module replaced it.
        norm: path of the BN that moved into the module; "" for none.
        act: class of the activation before the module's cheap branch; "" for none.
        reason: why the convolution was kept; "" if it was replaced.
    """

    name: str
    convolution: str
    replaced: bool
    norm: str = ""
    act: str = ""
    reason: str = ""

    @classmethod
    def of(cls, site: ConvolutionSite, replaced: bool, reason: str) -> Replacement:
        """Describe a convolution; ``reason`` is ignored if it was replaced."""
        conv = site.conv
        size = "x".join(map(str, conv.kernel_size))
        text = f"{size}, {conv.in_channels} -> {conv.out_channels}"
        if set(conv.stride) != {1}:
            text += f", stride {'x'.join(map(str, sorted(set(conv.stride))))}"
        if not replaced:
            return cls(site.name, text, False, reason=reason)
        act = "" if site.act is None else type(site.act).__name__
        return cls(site.name, text, True, site.norm_name, act)


@dataclass(frozen=True)
class GhostifyReport:
    """What :func:`ghostify` did to a network; ``str(report)`` is a table.

    Args:
        ratio: s in the paper.
        cheap_kernel_size: d in the paper.
        init: "random" or "fit".
        before: cost of the original network for one image.
        after: cost of the changed network for one image.
        convolutions: all convolutions in the order in which they run.
    """

    ratio: int
    cheap_kernel_size: int
    init: str
    before: ComplexityReport
    after: ComplexityReport
    convolutions: tuple[Replacement, ...]

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """The convolutions that were replaced."""
        return tuple(row for row in self.convolutions if row.replaced)

    @property
    def kept(self) -> tuple[Replacement, ...]:
        """The convolutions that were kept, each with the reason."""
        return tuple(row for row in self.convolutions if not row.replaced)

    def summary(self) -> str:
        """Summarise in one line: convolutions replaced, parameters and MACs before and after."""
        before, after = self.before, self.after
        return (
            f"{len(self.replaced)} of {len(self.convolutions)} convolutions are Ghost modules "
            f"(ratio {self.ratio}, cheap kernels {self.cheap_kernel_size}, "
            f"init {self.init}): parameters {before.parameters:,} -> {after.parameters:,}, "
            f"MACs {before.macs:,} -> {after.macs:,}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON: the totals and a row for each convolution."""
        return {
            "ratio": self.ratio,
            "cheap_kernel_size": self.cheap_kernel_size,
            "init": self.init,
            "before": {"parameters": self.before.parameters, "macs": self.before.macs},
            "after": {"parameters": self.after.parameters, "macs": self.after.macs},
            "convolutions": [asdict(row) for row in self.convolutions],
        }

    def __str__(self) -> str:
        rows = [("convolution", "size", "became")]
        for row in self.convolutions:
            became = f"kept: {row.reason}"
            if row.replaced:
                parts = [f"BN {row.norm}" if row.norm else "", row.act]
                inside = ", ".join(part for part in parts if part)
                became = "Ghost module" + (f" with {inside}" if inside else "")
            rows.append((row.name, row.convolution, became))
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [
            f"{name:<{widths[0]}}  {size:<{widths[1]}}  {became}" for name, size, became in rows
        ]
        return "\n".join([*lines, self.summary()])
