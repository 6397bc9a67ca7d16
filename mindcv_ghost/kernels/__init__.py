"""Networks on the CPU with operators of our own: compiled at first use, else MindSpore's.

What is here: ``cpp/`` the operators, ``library`` builds and loads them, ``self_test`` and
``self_test_layers`` compare them with plain formulas before they are used, ``operators`` and
``layers`` make them cells with gradients, ``switch`` and ``replaced`` put them into a network.
Importing this package loads neither MindSpore nor a compiler.
"""

from __future__ import annotations

from typing import Any

__all__ = ["all_finite", "use_native"]


def use_native(network: Any, **where: Any) -> Any:
    """See :func:`mindcv_ghost.kernels.switch.use_native`, which this calls."""
    from mindcv_ghost.kernels import switch

    return switch.use_native(network, **where)


def all_finite(library: str) -> Any:
    """Make the cell that looks at all gradients; None if ``library``, a Report's, is empty."""
    if not library:
        return None
    from mindcv_ghost.kernels.layers import AllFinite

    return AllFinite(library)
