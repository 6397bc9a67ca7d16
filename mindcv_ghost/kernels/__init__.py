"""Native operators for networks on the CPU: this package's C++, compiled at first use.

In goes a network of ordinary cells; out comes the same network, some of whose cells now compute the
same with custom operators. Start reading at ``acceleration``, which users call; ``install``
decides where, ``exchange`` changes the class of a cell, ``library`` builds and loads the C++ in
``cpp/``.

To add a native operator:

1. ``cpp/<kind>.h`` and ``cpp/<kind>.cc``: the loops, and the function that MindSpore calls.
2. ``self_test/reference.py`` and ``self_test/checks.py``: a formula in numpy, and the check
   against it that a library has to pass before it is used.
3. ``<kind>.py``: a cell that calls the operator (made by ``custom_op``) and has a ``bprop``, and
   the native subclass of the ordinary cell (``native_cell``).
4. ``exchange.NATIVE_CLASSES``: the ordinary class and its native one; ``install.Report`` if the log
   should count it.
5. ``tests/kernels/test_layers.py`` (``NAMED``) and, for the sanitizers, ``tests/kernels/drive.cc``.

``pooling`` is the shortest example.

In evaluation a network whose cells all have steps is one operator (``evaluation``), which runs the
network's ``program``. To add a step:

1. ``program.Kind`` or ``program.Activation``, and fields of ``program.Step`` if it needs more.
2. ``cpp/program.h``: the same there; in ``Plan::known_step`` its output's size, and a check of its
   parameters' sizes.
3. ``cpp/program_steps.h``: a function that all threads call, in ``run_step``.
4. ``emit`` of the native class, and of those around it; ``NativeNetwork`` for a whole network.
5. ``self_test/checks.py`` (``_check_program``), ``tests/kernels/drive.cc`` and ``test_program.py``.

Importing this package loads neither MindSpore nor a compiler.
"""

from __future__ import annotations

from typing import Any

__all__ = ["make_all_finite", "make_loss", "make_momentum"]


def make_all_finite(library: str) -> Any:
    """Make the cell that checks all gradients for infinities and NaN.

    Args:
        library: path of the operators, as a ``Report`` has it.

    Returns:
        The cell; None if ``library`` is empty.
    """
    if not library:
        return None
    from mindcv_ghost.kernels.all_finite import AllFinite

    return AllFinite(library)


def make_loss(library: str, loss: Any) -> Any:
    """Make the cell that computes a loss in one operator.

    Args:
        library: path of the operators, as a ``Report`` has it.
        loss: of any kind.

    Returns:
        The cell; None if ``library`` is empty or the loss isn't MindCV's cross entropy without
        weights of classes.
    """
    if not library:
        return None
    from mindcv_ghost.kernels.cross_entropy import CrossEntropy, is_plain_cross_entropy

    return CrossEntropy(library, loss) if is_plain_cross_entropy(loss) else None


def make_momentum(library: str, optimizer: Any) -> Any:
    """Make the cell that does the update of a momentum optimizer in one operator.

    Args:
        library: path of the operators, as a ``Report`` has it.
        optimizer: of any kind.

    Returns:
        The cell; None if ``library`` is empty or the optimizer isn't a plain ``nn.Momentum``, which
        leaves the update to the optimizer.
    """
    if not library:
        return None
    from mindcv_ghost.kernels.momentum import Momentum, is_plain_momentum

    return Momentum(library, optimizer) if is_plain_momentum(optimizer) else None
