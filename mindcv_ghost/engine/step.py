"""One training step: mixed precision, loss scale, accumulation, all-reduce, clipping, update, EMA.

MindCV's TrainStep can't be used as it is: it clips each rank's gradients before the all-reduce (so
that the result depends on the number of ranks), advances the learning rate at every micro-step
under accumulation though the schedule is built otherwise, and has no dynamic loss scale on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.amp import auto_mixed_precision

from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.overflow import StatusCheck, ValueCheck
from mindcv_ghost.engine.parameters import write

__all__ = ["LossScale", "NetworkWithLoss", "Outcome", "TrainStep", "mixed_precision"]

_scale_gradient = ops.MultitypeFuncGraph("scale_gradient")


@_scale_gradient.register("Tensor", "Tensor")
def _scale_one(factor, gradient):
    return gradient * ops.cast(factor, gradient.dtype)


_add_gradient = ops.MultitypeFuncGraph("add_gradient")


@_add_gradient.register("Tensor", "Tensor")
def _add_one(total, gradient):
    return ops.assign_add(total, ops.cast(gradient, total.dtype))


_clear = ops.MultitypeFuncGraph("clear_gradient")


@_clear.register("Tensor")
def _clear_one(total):
    return ops.assign(total, ops.zeros_like(total))


@dataclass(frozen=True)
class LossScale:
    """How the loss is scaled before the backward pass, so that float16 gradients don't vanish.

    Args:
        value: the factor to start with, at least 1.
        dynamic: double it after ``window`` good updates, halve it at an overflow.
        skip_overflow: leave an update out whose gradients aren't finite; always so when dynamic.
        window: good updates before the factor doubles (2000, as in MindCV).
    """

    value: float = 1.0
    dynamic: bool = False
    skip_overflow: bool = False
    window: int = 2000

    @property
    def skips(self) -> bool:
        """Whether an update with gradients that aren't finite is left out."""
        return self.skip_overflow or self.dynamic


def mixed_precision(network: nn.Cell, level: str, cast_list: tuple[type, ...] = ()) -> nn.Cell:
    """Apply MindSpore's automatic mixed precision.

    Args:
        network: changed in place; its parameters stay float32.
        level: O0 (float32), O1 (convolutions and dense layers in float16), O2 (all but norms in
            float16), O3 (all in float16) or auto (by operator).
        cast_list: classes of cells that MindCV's variant of O1 casts, or of O2 keeps, instead.
    """
    if level == "O1" or (level == "O2" and cast_list):
        # MindCV's casts and not MindSpore 2.8's auto_mixed_precision: its O1 rewrites the network's
        # source, and fails on the second network of a process ("cannot import name
        # 'GlobalAvgPooling' from 'pooling'"); nor does it take a list of the caller's own.
        from mindcv.utils import amp

        cast = amp._auto_white_list if level == "O1" else amp._auto_black_list
        cast(network, cast_list or None)
        return network
    return auto_mixed_precision(network, level)


class NetworkWithLoss(nn.Cell):
    """Network and loss as one cell: ``(N, C, H, W), labels -> loss, loss to report``; float32.

    The two are the same number unless ``exact``: then the second is computed in float64. Float32's
    ``exp`` and sums depend on how a kernel is split, and MindSpore 2.8 tries other splits in the
    first 15 calls on the CPU, so that after a restart the last digit of the loss may differ though
    the weights don't (seen for 4 of 5 batches of 4 images and 6 classes; in float64 for none).

    Args:
        network: returns logits ``(N, classes)``, or a tuple with auxiliary logits behind them.
        loss: takes logits and labels.
        exact: whether the loss can do so, and float64 is at hand.
    """

    def __init__(self, network: nn.Cell, loss: nn.Cell, exact: bool = False) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.exact = exact

    def construct(self, image, label):
        logits = self.network(image)
        loss = self._loss_in(ms.float32, logits, label)
        if not self.exact:
            return loss, loss
        return loss, ops.cast(self._loss_in(ms.float64, logits, label), ms.float32)

    def _loss_in(self, dtype, logits, label):
        if isinstance(logits, tuple):
            outputs = ()
            for each in logits:
                outputs += (ops.cast(each, dtype),)
            return self.loss(outputs, label)
        return self.loss(ops.cast(logits, dtype), label)


def _flag(value):
    """A bool as a float32 that can be added up, shape (1,)."""
    return ops.cast(value, ms.float32).reshape(1)


class Outcome(NamedTuple):
    """What a rank learns from an update; the same on all ranks, so that they act alike.

    Args:
        finite: whether the gradients of all ranks were finite.
        stop: whether a rank has asked to stop after this update.
        save: whether a rank has asked for a checkpoint after this update.
    """

    finite: bool
    stop: bool
    save: bool

    @classmethod
    def read(cls, news: Tensor) -> Outcome:
        """Fetch it from the device; waits until the update is done.

        Args:
            news: float32 (3,), how many ranks overflowed, asked to stop, and asked to save.
        """
        overflowed, stop, save = (bool(count) for count in news.asnumpy())
        return cls(not overflowed, stop, save)


class _Update(nn.Cell):
    """From summed, scaled, local gradients to changed parameters.

    The order matters: all-reduce, then unscale, then look for overflow, then clip, so that the
    clipped norm is that of the global batch.

    Each rank's overflow and requests are added up over the ranks before anything is decided, so
    that all ranks skip the same update, and learn of a request after the same update. The
    gradients' own sum can't tell: a device whose arithmetic saturates gives no infinity, and only
    the rank that overflowed knows (see ``overflow``). It costs one all-reduce of three numbers.
    """

    def __init__(
        self, optimizer, loss_scale: LossScale, clip_norm, ema, reducer, ranks, check, fused
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.fused = fused
        self.reducer = reducer
        self.clip_norm = clip_norm
        self.ema = ema
        self.check = check
        self.dynamic = loss_scale.dynamic
        self.skip_overflow = loss_scale.skips
        self.window = loss_scale.window
        self.scale = Parameter(
            Tensor(loss_scale.value, ms.float32), name="loss_scale", requires_grad=False
        )
        self.good_updates = Parameter(
            Tensor(0, ms.int32), name="loss_scale_good_updates", requires_grad=False
        )
        self.requests = Parameter(Tensor([0.0, 0.0], ms.float32), "requests", requires_grad=False)
        self.share = ops.AllReduce(ops.ReduceOp.SUM) if ranks > 1 else nn.Identity()
        # The fused optimizer unscales by itself. Gradients are finite before if they are so after,
        # and the other way round: no scale is below 1.
        self.unscales = fused is None or clip_norm is not None
        self.hyper_map = ops.HyperMap()

    def construct(self, gradients, micro_steps, overflowed=None):
        gradients = self.reducer(gradients)
        factor = 1.0 / (self.scale * micro_steps)
        if self.unscales:
            gradients = self.hyper_map(ops.partial(_scale_gradient, factor), gradients)
            factor = ops.ones_like(factor)
        own = _flag(ops.logical_not(self.check(gradients)))
        if overflowed is not None:
            own = own + overflowed
        news = self.share(ops.concat((own, self.requests)))
        if self.skip_overflow:
            finite = news[0] == 0
            if finite:
                news = ops.depend(news, self._apply(gradients, factor))
            if self.dynamic:
                news = ops.depend(news, self._adjust_scale(finite))
            return news
        return ops.depend(news, self._apply(gradients, factor))

    def _apply(self, gradients, factor):
        if self.clip_norm is not None:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        done = self.optimizer(gradients) if self.fused is None else self.fused(gradients, factor)
        if self.ema is not None:
            done = ops.depend(self.ema.updates, ops.depend(self.ema(), done))
        return done

    def _adjust_scale(self, finite):
        good = ops.select(finite, self.good_updates + 1, ops.zeros_like(self.good_updates))
        grown = good >= self.window
        scale = ops.select(grown, self.scale * 2, self.scale)
        # A scale above 2**24 has no use: 2**-24 is float16's smallest number.
        scale = ops.select(finite, ops.minimum(scale, 2.0**24), ops.maximum(scale / 2, 1.0))
        good = ops.select(grown, ops.zeros_like(good), good)
        return ops.assign(self.scale, scale), ops.assign(self.good_updates, good)


class TrainStep(nn.Cell):
    """``(image, label) -> (loss, outcome)``: one forward and backward pass, an update when due.

    The outcome is what :meth:`Outcome.read` reads.

    With ``accumulation_steps`` 1 a call is one update. With more, a call adds to the gradient sums
    and :meth:`update` ends the group; the trainer calls it every ``accumulation_steps`` calls and
    at an epoch's end, where the group may be shorter: the sum is divided by its true length. The
    optimizer, and with it the learning rate, advances once an update.

    Args:
        network: a :class:`NetworkWithLoss`.
        optimizer: a MindSpore optimizer; its own loss scale must be 1.
        loss_scale: see :class:`LossScale`.
        clip_norm: largest global norm of the gradients, or None.
        ema: averages to keep up to date, or None.
        accumulation_steps: calls an update.
        ranks: number of ranks whose gradients are averaged; above 1 MindSpore's communication must
            have been initialised with parallel mode "data_parallel".
        check: tells whether the gradients are finite; None for :class:`ValueCheck`.
        fused: a cell that does the optimizer's work, with its state, from the gradients and what
            they are to be multiplied by; None for the optimizer itself.
    """

    def __init__(
        self,
        network: nn.Cell,
        optimizer: nn.Optimizer,
        loss_scale: LossScale | None = None,
        clip_norm: float | None = None,
        ema: EmaWeights | None = None,
        accumulation_steps: int = 1,
        ranks: int = 1,
        check: ValueCheck | StatusCheck | None = None,
        fused: nn.Cell | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.network.set_grad()
        self.weights = optimizer.parameters
        self.accumulation_steps = accumulation_steps
        self.accumulates = accumulation_steps > 1
        reducer = nn.Identity()
        if ranks > 1:
            reducer = nn.DistributedGradReducer(self.weights, mean=True, degree=ranks)
        loss_scale = loss_scale or LossScale()
        self.check = check or ValueCheck()
        self.updater = _Update(
            optimizer, loss_scale, clip_norm, ema, reducer, ranks, self.check, fused
        )
        self.updater.set_train()
        self.sums = None
        self.overflowed = None
        if self.accumulates:
            self.sums = self.weights.clone("gradient_sum", init="zeros")
            if self.check.per_rank:
                # The register tells of the batch just computed; the group's update wants them all.
                self.overflowed = Parameter(
                    Tensor([0.0], ms.float32), name="overflowed", requires_grad=False
                )
            self._finish = _FinishGroup(self.updater, self.sums, self.overflowed)
        self.one = Tensor(1.0, ms.float32)
        self.hyper_map = ops.HyperMap()
        self.value_and_grad = ops.value_and_grad(
            self._scaled_loss, None, weights=self.weights, has_aux=True
        )

    @property
    def model(self) -> nn.Cell:
        """The network that is trained, without its loss."""
        return self.network.network

    @property
    def scale(self) -> float:
        """The loss scale in force."""
        return float(self.updater.scale.asnumpy())

    @property
    def updates_done(self) -> int:
        """Updates that the optimizer has made; those skipped for overflow don't count."""
        return int(self.updater.optimizer.global_step.asnumpy()[0])

    def set_updates_done(self, updates: int) -> None:
        """Move the optimizer to another place of its schedule."""
        write(self.updater.optimizer.global_step, np.array([updates], np.int32))

    @property
    def skips_overflow(self) -> bool:
        """Whether an update with gradients that aren't finite is left out."""
        return self.updater.skip_overflow

    @property
    def scale_can_fall(self) -> bool:
        """Whether a lower loss scale may still mend an overflow."""
        return self.updater.dynamic and self.scale > 1

    def request(self, stop: bool, save: bool) -> None:
        """Ask all ranks to stop, or to save, after the next update; False withdraws it."""
        write(self.updater.requests, np.array([stop, save], np.float32))

    def _scaled_loss(self, image, label):
        loss, reported = self.network(image, label)
        return loss * self.updater.scale, reported

    def construct(self, image, label):
        (_, loss), gradients = self.value_and_grad(self.check.start(image), label)
        if self.accumulates:
            added = self.hyper_map(_add_gradient, self.sums, gradients)
            if self.overflowed is not None:
                bad = _flag(ops.logical_not(self.check(ops.depend(gradients, added))))
                added = ops.depend(ops.assign_add(self.overflowed, bad), added)
            return ops.depend(loss, added), self.one
        return loss, self.updater(gradients, self.one)

    def compile_update(self, compile_cell: Callable[..., bool]) -> None:
        """Let ``compile_cell(cell, *inputs)`` compile what :meth:`update` calls, if it is used."""
        if self.accumulates:
            compile_cell(self._finish, self.one)

    def update(self, micro_steps: int) -> Tensor:
        """End a group of accumulated micro-steps with one update; gives what Outcome.read reads."""
        return self._finish(Tensor(float(micro_steps), ms.float32))


class _FinishGroup(nn.Cell):
    def __init__(self, updater: _Update, sums, overflowed) -> None:
        super().__init__(auto_prefix=False)
        self.updater = updater
        self.sums = sums
        self.overflowed = overflowed
        self.hyper_map = ops.HyperMap()

    def construct(self, micro_steps):
        sums = self.updater.check.start(self.sums)
        news = self.updater(sums, micro_steps, self.overflowed)
        cleared = self.hyper_map(_clear, ops.depend(self.sums, news))
        if self.overflowed is not None:
            cleared = cleared, _clear_one(ops.depend(self.overflowed, news))
        return ops.depend(news, cleared)
