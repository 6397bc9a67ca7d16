"""Ghost networks on the CPU with operators of our own: compiled at first use, else MindSpore's.

What is here: ``cpp/`` the operators, ``library`` builds and loads them, ``self_test`` compares them
with plain formulas before they are used, ``operators`` makes them cells with gradients, ``switch``
puts them into a network. Importing this package loads neither MindSpore nor a compiler.
"""

from __future__ import annotations

from typing import Any

__all__ = ["use_native"]


def use_native(network: Any, **where: Any) -> Any:
    """See :func:`mindcv_ghost.kernels.switch.use_native`, which this calls."""
    from mindcv_ghost.kernels import switch

    return switch.use_native(network, **where)
