"""Gradient descent with momentum: one operator for all parameters of a network."""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindcv_ghost.kernels.custom_op import make_in_place_operator, settings_tensor

__all__ = ["Momentum", "is_plain_momentum"]


def is_plain_momentum(optimizer: nn.Optimizer) -> bool:
    """Whether :class:`Momentum` computes the same as this optimizer, bit for bit."""
    return (
        type(optimizer) is nn.Momentum
        and not optimizer.use_nesterov
        and not optimizer.need_scale
        and not optimizer.dynamic_weight_decay
        and not (optimizer.is_group and any(optimizer.grad_centralization_flags))
        and not optimizer.use_parallel
        and all(p.dtype == mstype.float32 for p in optimizer.parameters)
    )


class Momentum(nn.Cell):
    """The update of a plain ``nn.Momentum``, with its parameters, moments, rates and step count.

    Args:
        path: of the library of operators.
        optimizer: whose state is read and written; see :func:`is_plain_momentum`.

    Inputs: the gradients of the optimizer's parameters, and a factor that they are multiplied by.
    Outputs: a tensor to depend on.
    """

    def __init__(self, path: str, optimizer: nn.Momentum) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.written = (*optimizer.parameters, *optimizer.moments)
        count = len(optimizer.parameters)
        # `which`: index of each parameter's schedule; `examples`: one parameter of each schedule.
        schedules = list(optimizer.learning_rate) if optimizer.is_group_lr else [optimizer] * count
        distinct = list(dict.fromkeys(map(id, schedules)))
        which = [distinct.index(id(schedule)) for schedule in schedules]
        self.examples = tuple(which.index(number) for number in range(len(distinct)))
        self.settings = settings_tensor(*which, *_decays(optimizer))
        self.forward = make_in_place_operator(path, "ghost_momentum", 4 + count, 2 * count)

    def construct(self, gradients, factor):
        optimizer = self.optimizer
        rates = self._rates()
        done = self.forward(
            self.settings, factor, optimizer.momentum, rates, *gradients, *self.written
        )
        step = optimizer.assignadd(optimizer.global_step, optimizer.global_step_increase_tensor)
        return ops.depend(done, step)

    def _rates(self):
        rates = self.optimizer.get_lr()
        if not self.optimizer.is_group_lr:
            return rates.reshape(1)
        distinct: tuple[Tensor, ...] = ()
        for index in self.examples:
            distinct += (rates[index].reshape(1),)
        return ops.concat(distinct)


def _decays(optimizer: nn.Momentum) -> list[float]:
    """The weight decay of each parameter."""
    flags = optimizer.decay_flags
    if not optimizer.exec_weight_decay:
        return [0.0] * len(flags)
    decays = optimizer.weight_decay
    if not optimizer.is_group:
        decays = [decays] * len(flags)
    return [float(decay.asnumpy()) if flag else 0.0 for decay, flag in zip(decays, flags)]
