"""How results of operators are compared with the formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["check_close", "check_gradients"]


def check_close(what: str, got: np.ndarray, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    """Compare a result in float32 with what is expected of it.

    Args:
        what: named in the message.
        got: the result.
        expected: the same in float64.
        tolerance: greatest error, as a share of the greatest expected value.

    Raises:
        AssertionError: if the error is larger.
    """
    error = np.abs(got - expected).max() / np.abs(expected).max()
    if not error <= tolerance:
        raise AssertionError(f"{what} is off by {error:.1e} of its greatest value")


def check_gradients(
    what: str,
    random: np.random.Generator,
    formula: Callable[..., np.ndarray],
    variables: Sequence[np.ndarray],
    gradients: Sequence[np.ndarray],
    dy: np.ndarray,
) -> None:
    """Compare gradients with central differences of a formula along a random direction.

    Args:
        what: named in the message.
        random: draws the directions.
        formula: of all variables.
        variables: where the gradients were computed.
        gradients: one for each variable.
        dy: gradient of the formula's value.

    Raises:
        AssertionError: if a gradient is off.
    """
    width = 1e-6
    for index, gradient in enumerate(gradients):
        step = random.normal(size=gradient.shape)
        ends = []
        for sign in (1, -1):
            shifted = list(variables)
            shifted[index] = shifted[index] + sign * width * step
            ends.append((formula(*shifted) * dy).sum())
        scale = np.sqrt((gradient**2).sum() + 1) * np.sqrt(step.size)
        change = (ends[0] - ends[1]) / (2 * width)
        check_close(
            f"{what}, gradient {index}", (gradient * step).sum() + scale, change + scale, 1e-4
        )
