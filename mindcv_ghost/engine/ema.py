"""Exponential moving average of a network's parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mindspore as ms
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops

from mindcv_ghost.engine.parameters import assign_parameter

__all__ = ["EMA_WARMUP_STEPS", "EmaWeights"]

# The decay of update t is ``decay * (1 - exp(-t / 2000))``, as in MindCV's TrainStep, so that the
# average quickly forgets early weights, which are far from good.
EMA_WARMUP_STEPS = 2000

_update = ops.MultitypeFuncGraph("ema_update")


@_update.register("Tensor", "Tensor", "Tensor")
def _update_one(decay, average, value):
    if value.dtype == ms.int32:  # a permutation of channels has no mean
        return ops.assign(average, value)
    return ops.assign(average, average * decay + value * (1 - decay))


class EmaWeights(nn.Cell):
    """Keeps an averaged copy of every parameter and BN statistic.

    The copies are named ``ema.<parameter>``, MindCV's names, so that
    ``mindcv.create_model(..., checkpoint_path=..., ema=True)`` finds them in a checkpoint. A call
    of the cell does one update of all averages.

    Args:
        network: whose parameters are averaged.
        decay: weight of the old average in an update, 0..1.
    """

    def __init__(self, network: nn.Cell, decay: float) -> None:
        super().__init__(auto_prefix=False)
        self.decay = decay
        self.values = ParameterTuple(list(network.get_parameters()))
        self.averages = self.values.clone("ema", init="same")
        self.updates = Parameter(Tensor(0.0, ms.float32), name="ema_updates", requires_grad=False)
        self.hyper_map = ops.HyperMap()

    def construct(self):
        """Update the averages; returns the number of updates, to depend on."""
        updates = self.updates + 1
        decay = self.decay * (1 - ops.exp(-updates / EMA_WARMUP_STEPS))
        done = self.hyper_map(ops.partial(_update, decay), self.averages, self.values)
        return ops.depend(ops.assign(self.updates, updates), done)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the network's weights by the averages inside the ``with`` block."""
        own = [p.asnumpy().copy() for p in self.values]
        try:
            for p, average in zip(self.values, self.averages):
                assign_parameter(p, average.asnumpy())
            yield
        finally:
            for p, value in zip(self.values, own):
                assign_parameter(p, value)
