"""What was done to a network, for people and for files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mindcv_ghost.analysis.complexity import ComplexityReport
from mindcv_ghost.surgery.convolutions import ConvolutionSite

__all__ = ["GhostifyReport", "Replacement"]


@dataclass(frozen=True)
class Replacement:
    """One convolution: what it is, and what became of it.

    Args:
        name: its path.
        convolution: its size, as "3x3, 64 -> 128, stride 2".
        replaced: whether a Ghost module stands there now.
        norm: path of the BN that moved into it; "" if none did.
        act: the activation that its cheap branch reads through; "" for none.
        reason: why it was kept; "" if it was replaced.
    """

    name: str
    convolution: str
    replaced: bool
    norm: str = ""
    act: str = ""
    reason: str = ""

    @classmethod
    def of(cls, site: ConvolutionSite, replaced: bool, reason: str) -> Replacement:
        """Describe a site; ``reason`` counts only where it was kept."""
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
    """What :func:`ghostify` did; ``str()`` of it is a table.

    Args:
        ratio: the paper's s.
        cheap_kernel_size: the paper's d.
        init: "random" or "fit".
        before: cost of the network that came in, for one image.
        after: cost of the one that went out.
        convolutions: all of them, in the order in which they run.
    """

    ratio: int
    cheap_kernel_size: int
    init: str
    before: ComplexityReport
    after: ComplexityReport
    convolutions: tuple[Replacement, ...]

    @property
    def replaced(self) -> tuple[Replacement, ...]:
        """The convolutions that are Ghost modules now."""
        return tuple(row for row in self.convolutions if row.replaced)

    @property
    def kept(self) -> tuple[Replacement, ...]:
        """The convolutions that stayed, each with its reason."""
        return tuple(row for row in self.convolutions if not row.replaced)

    def summary(self) -> str:
        """One line: how many were replaced, and what it did to parameters and MACs."""
        before, after = self.before, self.after
        return (
            f"{len(self.replaced)} of {len(self.convolutions)} convolutions are Ghost modules "
            f"(ratio {self.ratio}, cheap kernels {self.cheap_kernel_size}, "
            f"init {self.init}): parameters {before.parameters:,} -> {after.parameters:,}, "
            f"MACs {before.macs:,} -> {after.macs:,}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: the totals and a row a convolution."""
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
