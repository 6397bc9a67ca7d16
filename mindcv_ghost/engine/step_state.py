"""The state of a training step: copied into arrays, and restored from them bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.divergence import all_finite
from mindcv_ghost.engine.parameters import assign_parameter
from mindcv_ghost.engine.step import TrainStep

__all__ = ["StepState", "find_non_finite"]

# Not saved: the schedule, which is computed from the recipe; the sums of gradients and of
# overflows, which are zero after an update, when a state is saved; pending requests; and the
# teacher, which never changes.
_NOT_SAVED = ("learning_rate", "gradient_sum.", "overflowed", "requests")


class StepState:
    """Every parameter of a training step that a resumed run needs.

    Weights, optimizer slots, averages and loss scale are the same on all ranks. Batch-norm
    statistics differ between the ranks within an epoch, and are averaged at its end.

    Args:
        step: the training step, with network, optimizer, loss scale and EMA.
        collectives: to the other ranks.

    Attributes:
        parameters: by name.
        per_rank: names of those that differ between the ranks within an epoch.
    """

    def __init__(self, step: TrainStep, collectives: Collectives) -> None:
        self.collectives = collectives
        teacher = step.teacher
        fixed = set() if teacher is None else {id(p) for p in teacher.get_parameters()}
        # nn.Momentum and nn.SGD keep the recipe's coefficient in a parameter.
        self._coefficient = getattr(step.updater.optimizer, "momentum", None)
        self.parameters: dict[str, ms.Parameter] = {
            p.name: p
            for p in step.get_parameters()
            if not p.name.startswith(_NOT_SAVED) and id(p) not in fixed
        }
        trained = {p.name for p in step.weights}
        buffers = [p.name for p in step.network_with_loss.get_parameters() if p.name not in trained]
        averages = [f"ema.{name}" for name in buffers]
        self.per_rank = [name for name in (*buffers, *averages) if name in self.parameters]

    @property
    def nbytes(self) -> int:
        """Approximate size of a saved state within an epoch, in bytes."""
        total = sum(_nbytes(p) for p in self.parameters.values())
        per_rank = sum(_nbytes(self.parameters[name]) for name in self.per_rank)
        return total + per_rank * (self.collectives.size - 1)

    def snapshot(self, each_rank: bool) -> dict[str, np.ndarray] | None:
        """Copy all parameters; every rank has to call it.

        Args:
            each_rank: also copy the other ranks' :attr:`per_rank` parameters, as
                ``rank<k>/<name>``. Needed within an epoch; at its end they are equal.

        Returns:
            Arrays by name on rank 0, None on the other ranks.
        """
        others: dict[str, np.ndarray] = {}
        for rank in range(1, self.collectives.size if each_rank else 1):
            values = [self.parameters[name].asnumpy() for name in self.per_rank]
            values = self.collectives.broadcast_arrays(values, rank)
            others |= {f"rank{rank}/{name}": v for name, v in zip(self.per_rank, values)}
        if self.collectives.rank:
            return None
        return {name: p.asnumpy() for name, p in self.parameters.items()} | others

    def expected_arrays(self, ranks: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Give shape and data type by name of a snapshot.

        Args:
            ranks: whose :attr:`per_rank` parameters it holds; 1 at the end of an epoch.
        """
        shapes = {name: (tuple(p.shape), p.asnumpy().dtype) for name, p in self.parameters.items()}
        others = {
            f"rank{rank}/{name}": shapes[name] for rank in range(1, ranks) for name in self.per_rank
        }
        return shapes | others

    def restore(self, arrays: Mapping[str, np.ndarray] | None, ranks: int) -> None:
        """Set every rank's parameters to a snapshot; every rank has to call it.

        Args:
            arrays: on rank 0, as :meth:`snapshot` returned them; None on the other ranks.
            ranks: whose :attr:`per_rank` parameters are among them; 1 at the end of an epoch.
        """
        rank = self.collectives.rank
        for source in range(ranks):
            names = self.per_rank if source else list(self.parameters)
            prefix = f"rank{source}/" if source else ""
            values = self.collectives.broadcast_arrays(
                [arrays[prefix + n] if arrays else self.parameters[n].asnumpy() for n in names]
            )
            if source in (0, rank):
                for name, value in zip(names, values):
                    if self.parameters[name] is not self._coefficient:  # the recipe's counts
                        assign_parameter(self.parameters[name], value)


def find_non_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Name the first array that holds a NaN, an infinity, or a number that stands for one."""
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not all_finite(values):
            return name
    return None


def _nbytes(p: ms.Parameter) -> int:
    return p.size * p.itemsize
