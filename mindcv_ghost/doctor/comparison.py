"""Are a step's loss and gradients those that the CPU computes in float32?"""

from __future__ import annotations

import numpy as np

from mindcv_ghost.doctor.findings import BROKEN, OK, Finding

__all__ = ["LOSS", "compared"]

LOSS = "the loss"
"""Under which name the loss stands among the gradients."""

# How far loss and gradients may lie from float32 on the CPU, of the value and of the norm. Measured
# on the CPU for ghost_resnet50, resnet50 and ghostnetv2_100: at most 2.5e-7 and 1.3e-5 by native
# operators in float32; 2.5e-4 and 8e-3 by float16 (O2), whose products are good to 5e-4, as TF32's
# are, which devices may take for float32. A gradient that is wrong is off by its own size.
_LOSS_TOLERANCE, _GRADIENT_TOLERANCE = (1e-5, 1e-2), (1e-3, 5e-2)


def compared(
    got: dict[str, np.ndarray], expected: dict[str, np.ndarray], rough: bool, scale: float = 1.0
) -> Finding:
    """Judge a step's loss and gradients.

    Args:
        got: gradients by name, and the loss under ``LOSS``.
        expected: the same in float32 by the CPU.
        rough: whether float16 or a device computed them.
        scale: the loss scale, for the text.
    """
    what = "loss and gradients"
    if got.keys() != expected.keys():
        names = sorted(got.keys() ^ expected.keys())
        return Finding(what, BROKEN, f"not the same parameters are trained: {', '.join(names[:5])}")
    loss, right = float(got[LOSS]), float(expected[LOSS])
    loss_error = abs(loss - right) / max(abs(right), 1e-12)
    squares = {
        name: (float(np.square(got[name] - value).sum()), float(np.square(value).sum()))
        for name, value in expected.items()
        if name != LOSS
    }
    off, norm = (float(np.sqrt(sum(each[i] for each in squares.values()))) for i in (0, 1))
    error = off / max(norm, 1e-30)
    # Which one differs most, in a unit that all share: the smallest ones are noise.
    worst = max(squares, key=lambda name: squares[name][0] if squares[name][0] >= 0 else np.inf)
    loss_tolerance, tolerance = _LOSS_TOLERANCE[rough], _GRADIENT_TOLERANCE[rough]
    text = (
        f"first step against float32 on the CPU: loss {loss:.6g} for {right:.6g}, off by "
        f"{loss_error:.1e} (at most {loss_tolerance:.0e}); gradients off by {error:.1e} of their "
        f"norm {norm:.3g} (at most {tolerance:.0e}), most in {worst}"
    )
    text += f"; loss scale {scale:g}" if scale != 1 else ""
    numbers = {"loss": loss, "loss_error": loss_error, "gradient_error": error}
    # Written so that a NaN fails.
    if not (loss_error <= loss_tolerance and error <= tolerance):
        remedy = "try --amp_level O0, --jit_level O0 or O1, --native_kernels false: which mends it?"
        return Finding(what, BROKEN, text, remedy, numbers)
    return Finding(what, OK, text, numbers=numbers)
