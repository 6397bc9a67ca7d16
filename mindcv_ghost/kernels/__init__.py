"""Networks on the CPU with operators of our own: compiled at first use, else MindSpore's.

What is here: ``cpp/`` the operators, ``library`` builds and loads them, ``self_test`` and
``self_test_layers`` compare them with plain formulas before they are used, ``operators`` and
``layers`` make them cells with gradients, ``switch`` and ``replaced`` put them into a network;
``momentum`` is an optimizer.
Importing this package loads neither MindSpore nor a compiler.
"""

from __future__ import annotations

from typing import Any

__all__ = ["all_finite", "momentum", "use_native"]


def use_native(network: Any, **where: Any) -> Any:
    """See :func:`mindcv_ghost.kernels.install.use_native`, which this calls."""
    from mindcv_ghost.kernels import install as switch

    return switch.use_native(network, **where)


def all_finite(library: str) -> Any:
    """Make the cell that looks at all gradients; None if ``library``, a Report's, is empty."""
    if not library:
        return None
    from mindcv_ghost.kernels.layers import AllFinite

    return AllFinite(library)


def momentum(library: str, optimizer: Any) -> Any:
    """Make the cell that does a momentum optimizer's work in one operator, for a training step.

    Args:
        library: a Report's; with an empty one there is no such cell.
        optimizer: of any kind; for another than plain ``nn.Momentum`` there is none, either.

    Returns:
        The cell, or None: MindSpore's operators then do it.
    """
    if not library:
        return None
    from mindcv_ghost.kernels.momentum import Momentum, is_plain_momentum

    return Momentum(library, optimizer) if is_plain_momentum(optimizer) else None
