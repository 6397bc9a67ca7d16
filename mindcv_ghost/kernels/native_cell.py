"""What all native cells have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mindspore import dtype as mstype
from mindspore import nn

from mindcv_ghost.compat import NamesGraphOnce
from mindcv_ghost.errors import UserError
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.program import Maps, NotCovered, Program
from mindcv_ghost.layers.accelerated import Accelerated

__all__ = [
    "NativeCell",
    "emit",
    "has_hooks",
    "is_mixed_precision",
    "is_plain_batch_norm",
    "is_plain_conv",
]


class NativeCell(NamesGraphOnce, Accelerated):
    """Mixed into a subclass of an ordinary cell, whose ``construct`` then uses custom operators.

    ``mindcv_ghost.kernels.exchange`` changes the class of an ordinary cell to such a subclass.
    """

    _compile_phase: str  # of nn.Cell

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        """Whether the native class computes exactly what this cell, of its base class, does."""
        raise NotImplementedError

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell | None:
        """Make the cell that is kept as ``operator``; None if ``construct`` needs none."""
        return None

    @staticmethod
    def fused(cell: nn.Cell) -> Sequence[nn.Cell]:
        """Cells below this one that its operator computes as well: they keep their class."""
        return ()

    @staticmethod
    def skipped(cell: nn.Cell) -> Iterable[nn.Cell]:
        """Cells below this one that may never be called by themselves.

        A hook on one of them wouldn't run, so a cell with such a hook keeps its class.
        """
        return (below for _, below in cell.cells_and_names() if below is not cell)

    def emit(self, program: Program, x: Maps) -> Maps:
        """Add this cell's steps to a program that evaluates a network as one operator.

        Args:
            program: that the steps are added to.
            x: the cell's input.

        Returns:
            The cell's output.

        Raises:
            NotCovered: if there are no steps for this cell.
        """
        raise NotCovered(f"{type(self).__name__} has no steps")

    def add_flags(self, **flags: Any) -> nn.Cell:
        """Refuse half precision, which operators in float32 can't have; see ``Cell.to_float``."""
        if flags.get("fp16") or flags.get("bf16"):
            raise UserError(
                "an accelerated network computes in float32: call mindcv_ghost.decelerate(network) "
                "before to_float or auto_mixed_precision. Native operators are for float32 only"
            )
        return super().add_flags(**flags)  # type: ignore[misc]


def emit(program: Program, cell: nn.Cell, x: Maps) -> Maps:
    """Add the steps of a cell to a program.

    Args:
        program: that the steps are added to.
        cell: native, or one of few ordinary kinds.
        x: the cell's input.

    Returns:
        The cell's output.

    Raises:
        NotCovered: if the cell isn't one of these.
    """
    if isinstance(cell, NativeCell):
        return cell.emit(program, x)
    if type(cell) is nn.SequentialCell:
        for part in cell:
            x = emit(program, part, x)
        return x
    if type(cell) is nn.Identity:
        return x
    if type(cell) is nn.Dense and cell.activation is None and x.reduction == 0:
        return program.convolution(x, cell)
    raise NotCovered(f"there is no step for {type(cell).__name__}")


def is_mixed_precision(cell: nn.Cell) -> bool:
    """Whether ``to_float`` makes a cell compute in half precision."""
    flags = cell.get_flags()
    return any(flags.get(name, False) for name in ("fp16", "bf16"))


def has_hooks(cell: nn.Cell) -> bool:
    """Whether hooks are registered on a cell. One that is fused into another would never run."""
    kinds = ("_forward_pre_hook", "_forward_hook", "_backward_pre_hook", "_backward_hook")
    return any(getattr(cell, kind) for kind in kinds)


def is_plain_conv(cell: nn.Cell | None) -> bool:
    """Whether a cell is an ``nn.Conv2d`` itself, not a subclass, and computes in float32."""
    return (
        cell is not None
        and type(cell) is nn.Conv2d
        and cell.weight.dtype == mstype.float32
        and not is_mixed_precision(cell)
        and not has_hooks(cell)
    )


def is_plain_batch_norm(cell: nn.Cell | None) -> bool:
    """Whether a cell is an ``nn.BatchNorm2d`` itself, not a subclass, as its defaults make it.

    A subclass may compute something else: ``SyncBatchNorm2d`` averages over all ranks.
    """
    return (
        cell is not None
        and type(cell) is nn.BatchNorm2d
        and cell.use_batch_statistics is None
        and cell.format == "NCHW"
        and cell.gamma.dtype == cell.moving_mean.dtype == mstype.float32
        and not is_mixed_precision(cell)
        and not has_hooks(cell)
    )
