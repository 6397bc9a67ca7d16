"""Makes a translated network smaller and faster without changing what it computes.

Each file is one kind of change, a function that changes a draft and tells whether it did.
:func:`optimise` applies them until none finds anything.
"""

from __future__ import annotations

from mindcv_ghost.export.draft import Draft
from mindcv_ghost.export.optimisation.activations import recognise_activations
from mindcv_ghost.export.optimisation.branches import merge_branches
from mindcv_ghost.export.optimisation.constants import fold_constants, share_constants
from mindcv_ghost.export.optimisation.factors import fold_factors
from mindcv_ghost.export.optimisation.layout import simplify_layout
from mindcv_ghost.export.optimisation.linear import simplify_linear
from mindcv_ghost.export.optimisation.padding import simplify_padding
from mindcv_ghost.export.optimisation.repetition import merge_repetition
from mindcv_ghost.export.optimisation.sums import sum_before_concatenating

__all__ = ["optimise"]

_CHANGES = (
    fold_constants,
    merge_repetition,
    recognise_activations,
    simplify_layout,
    simplify_linear,
    simplify_padding,
    fold_factors,
    merge_branches,
    sum_before_concatenating,
)


def optimise(draft: Draft) -> None:
    """Optimise a network for inference.

    Constants are computed, batch normalisation and constant factors become part of the weights,
    parallel convolutions become one, concatenations wait for sums, and what only moves numbers
    forth and back goes away.

    Args:
        draft: changed in place.
    """
    while any([change(draft) for change in _CHANGES]):
        draft.remove_dead()
    draft.remove_dead()
    share_constants(draft)
