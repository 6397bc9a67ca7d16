"""Accelerate any network: find out whether native operators apply, and on how many threads."""

from __future__ import annotations

import os
from collections.abc import Iterator

from mindspore import dtype as mstype
from mindspore import nn
from mindspore.train import Model

from mindcv_ghost import compat
from mindcv_ghost.errors import LaunchError, UserError
from mindcv_ghost.kernels.exchange import is_native, native_class
from mindcv_ghost.kernels.install import Report, install, uninstall
from mindcv_ghost.kernels.library import Unavailable, load, threads_for
from mindcv_ghost.kernels.native_cell import is_mixed_precision
from mindcv_ghost.launch.world import detect, is_scheduler
from mindcv_ghost.layers import GhostModule

__all__ = ["accelerate", "decelerate"]


def accelerate(network: nn.Cell | Model, *, threads: int | None = None) -> Report:
    """Let this package's operators compute the layers of a network that they support.

    They are for the CPU and float32, in graph mode and in PyNative mode, for training and for
    evaluation. A wheel brings them; from a checkout the first call on a machine compiles them, in
    20 to 50 seconds on two cores. Where they can't be had, the network stays as it is and the
    report says why.

    Parameters stay the same objects with the same names, so that optimizers and checkpoints aren't
    affected. A second call changes nothing. Graphs that were compiled before are compiled anew.
    Results agree with MindSpore's operators to about 1e-5 of the largest value of a layer.

    Args:
        network: any network, also one inside a loss cell or a training cell, or a
            ``mindspore.train.Model``. It is changed in place. Change its structure and register
            hooks on its cells before.
        threads: that the operators of this process run on. None for its share of the cores among
            the processes that mpirun, msrun or srun started on this machine.

    Returns:
        What was done; ``str()`` of it is a line for a log. Used as a context manager it undoes what
        this call did: ``with mindcv_ghost.accelerate(network): train()``.

    Raises:
        UserError: if ``network`` is neither a network nor a ``Model``, or ``threads`` isn't at
            least 1.
    """
    network = _as_cell(network)
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"threads is a whole number, at least 1, or None; not {threads!r}")
    reason = _why_stock(network)
    if not reason:
        try:
            return install(network, load(_share_of_cores() if threads is None else threads))
        except Unavailable as error:
            reason = str(error)
    return Report.stock(network, reason)


def decelerate(network: nn.Cell | Model) -> None:
    """Undo :func:`accelerate`: every layer of a network is MindSpore's again.

    Weights, running statistics and modes stay as they are. Graphs are compiled anew.

    Args:
        network: changed in place, also if only a part of it was accelerated. Blocks of a larger
            network whose operators need a layer of this one are decelerated with it.
    """
    uninstall(cell for _, cell in _as_cell(network).cells_and_names())


def _as_cell(network: nn.Cell | Model) -> nn.Cell:
    """The cell with all cells of a network or a Model."""
    if isinstance(network, nn.Cell):
        return network
    if isinstance(network, Model):
        # Each contains the user's network, in a loss or a training cell that Model has made.
        for cell in (network.train_network, network.predict_network, network.eval_network):
            if isinstance(cell, nn.Cell):
                return cell
    raise UserError(
        f"give a network (mindspore.nn.Cell) or a mindspore.train.Model, not "
        f"{type(network).__name__}"
    )


def _share_of_cores() -> int:
    """The threads of this process, if the ranks of this machine share its cores."""
    if is_scheduler(os.environ):  # of msrun: the script's own process, without a network to run
        return 1
    try:
        return threads_for(detect(os.environ).local_size)
    except LaunchError:  # a launcher's variables that only partly arrived: nothing to share with
        return threads_for(1)


def _why_stock(network: nn.Cell) -> str:
    """Why no layer of a network gets a native operator; "" if one does."""
    cells = list(network.cells_and_names())
    device = compat.current_device()
    if not any(_may_be_native(cell) for _, cell in cells):
        return "no layer has a native operator"
    if device != "CPU":
        return f"native operators are for the CPU, not {device}"
    return next(_half_precision(cells), "")


def _may_be_native(cell: nn.Cell) -> bool:
    return isinstance(cell, GhostModule) or is_native(cell) or native_class(cell) is not None


def _half_precision(cells: list[tuple[str, nn.Cell]]) -> Iterator[str]:
    """Say for each cell that doesn't compute in float32, or hands on something else.

    All of a network's layers stay as they are then: which type a layer receives is only known when
    the network runs.
    """
    for path, cell in cells:
        name = path or type(cell).__name__
        if getattr(cell, "_amp_level", "") not in ("", "O0"):
            yield f"native operators are for float32, not amp level {cell._amp_level}"
        if is_mixed_precision(cell):
            yield f"native operators are for float32, and {name} computes in half precision"
        for parameter in cell.get_parameters(expand=False):
            if parameter.dtype in (mstype.float16, mstype.bfloat16, mstype.float64):
                yield f"native operators are for float32, and {parameter.name} is {parameter.dtype}"
