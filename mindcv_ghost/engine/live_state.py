"""What changes while a run trains: taken out of the live objects, and put back bit for bit."""

from __future__ import annotations

from collections.abc import Mapping

import mindspore as ms
import numpy as np

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.divergence import all_finite
from mindcv_ghost.engine.parameters import assign_parameter
from mindcv_ghost.engine.step import TrainStep

__all__ = ["LiveState"]

# Made anew from the recipe (the schedule), zero wherever a state is taken, which is after an update
# (the sums of gradients and of overflows), or of the moment (requests).
_NOT_KEPT = ("learning_rate", "gradient_sum.", "overflowed", "requests")


class LiveState:
    """Every parameter of a training step that has to outlive the process.

    Weights, optimizer slots, averages and loss scale are the same on all ranks. BN statistics are
    each rank's own until an epoch ends, where they are averaged.

    Args:
        step: the training step, with network, optimizer, loss scale and EMA.
        collectives: to the other ranks.
    """

    def __init__(self, step: TrainStep, collectives: Collectives) -> None:
        self.collectives = collectives
        self.parameters = {
            p.name: p for p in step.get_parameters() if not p.name.startswith(_NOT_KEPT)
        }
        trained = {p.name for p in step.weights}
        buffers = [p.name for p in step.network_with_loss.get_parameters() if p.name not in trained]
        averaged = [f"ema.{name}" for name in buffers]
        self.own = [name for name in (*buffers, *averaged) if name in self.parameters]

    @property
    def bytes(self) -> int:
        """Size of a state on the disk, nearly."""
        total = sum(_array_bytes(p) for p in self.parameters.values())
        own = sum(_array_bytes(self.parameters[name]) for name in self.own)
        return total + own * (self.collectives.size - 1)

    def take(self, each_rank: bool) -> dict[str, np.ndarray] | None:
        """Copy everything; every rank has to call it.

        Args:
            each_rank: also what the other ranks have of their own, which between epochs is the
                same everywhere.

        Returns:
            Arrays by name on rank 0, None elsewhere.
        """
        others = {}
        for rank in range(1, self.collectives.size if each_rank else 1):
            own = [self.parameters[name].asnumpy() for name in self.own]
            values = self.collectives.broadcast_arrays(own, rank)
            others |= {f"rank{rank}/{name}": v for name, v in zip(self.own, values)}
        if self.collectives.rank:
            return None
        return {name: p.asnumpy() for name, p in self.parameters.items()} | others

    def wanted(self, ranks: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shape and data type by name of a state that holds the own arrays of so many ranks."""
        shapes = {name: (tuple(p.shape), p.asnumpy().dtype) for name, p in self.parameters.items()}
        others = {f"rank{r}/{name}": shapes[name] for r in range(1, ranks) for name in self.own}
        return shapes | others

    def put_back(self, arrays: Mapping[str, np.ndarray] | None, ranks: int) -> None:
        """Give every rank what rank 0 read; every rank has to call it.

        Args:
            arrays: on rank 0, as :meth:`take` gave them.
            ranks: whose own arrays are among them (1 between epochs).
        """
        rank = self.collectives.rank
        for source in range(ranks):
            names = self.own if source else list(self.parameters)
            prefix = f"rank{source}/" if source else ""
            values = self.collectives.broadcast_arrays(
                [arrays[prefix + n] if arrays else self.parameters[n].asnumpy() for n in names]
            )
            if source in (0, rank):
                for name, value in zip(names, values):
                    assign_parameter(self.parameters[name], value)


def not_finite(arrays: Mapping[str, np.ndarray]) -> str | None:
    """Name an array that holds a NaN, an infinity, or what stands for one."""
    for name, values in arrays.items():
        if values.dtype.kind == "f" and not all_finite(values):
            return name
    return None


def _array_bytes(p: ms.Parameter) -> int:
    return p.size * p.itemsize
