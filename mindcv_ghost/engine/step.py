"""One training step: mixed precision, loss scale, accumulation, all-reduce, clipping, update, EMA.

Why not MindCV's TrainStep: it clips each rank's gradients before the all-reduce, so the result
depends on the number of ranks. Under gradient accumulation it advances the learning rate at every
micro-step, although the schedule counts updates. It has no dynamic loss scale on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops
from mindspore.amp import auto_mixed_precision

from mindcv_ghost.compat import NamesGraphOnce
from mindcv_ghost.engine.compilation import Compile
from mindcv_ghost.engine.distillation import Distillation
from mindcv_ghost.engine.ema import EmaWeights
from mindcv_ghost.engine.overflow import StatusCheck, ValueCheck
from mindcv_ghost.engine.parameters import assign_parameter

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
    """How the loss is scaled before the backward pass, so that float16 gradients don't underflow.

    Args:
        value: the initial factor, at least 1.
        dynamic: double it after ``window`` updates without overflow, halve it after an overflow.
        skip_overflow: skip updates whose gradients aren't finite; always done if ``dynamic``.
        window: updates without overflow before the factor doubles (2000, as in MindCV).
    """

    value: float = 1.0
    dynamic: bool = False
    skip_overflow: bool = False
    window: int = 2000

    @property
    def skips(self) -> bool:
        """Whether updates whose gradients aren't finite are skipped."""
        return self.skip_overflow or self.dynamic


def mixed_precision(network: nn.Cell, level: str, cast_list: tuple[type, ...] = ()) -> nn.Cell:
    """Apply MindSpore's automatic mixed precision.

    Args:
        network: changed in place; its parameters stay float32.
        level: O0 (float32), O1 (convolutions and dense layers in float16), O2 (all but norms in
            float16), O3 (all in float16) or auto (by operator).
        cast_list: classes of cells for MindCV's variants instead of its own lists: O1 casts these
            cells to float16, O2 keeps them in float32.

    Returns:
        The network to train.
    """
    if level == "O1" or (level == "O2" and cast_list):
        # MindCV's casts instead of auto_mixed_precision: MindSpore 2.8's O1 rewrites the network's
        # source and fails on the second network of a process ("cannot import name
        # 'GlobalAvgPooling' from 'pooling'"). It takes no list of classes, either.
        from mindcv.utils import amp

        cast = amp._auto_white_list if level == "O1" else amp._auto_black_list
        cast(network, cast_list or None)
        return network
    return auto_mixed_precision(network, level)


class NetworkWithLoss(nn.Cell):
    """Network and loss as one cell: ``(N, C, H, W), labels -> loss, loss to report``, in float32.

    Both are the same number unless ``exact`` is set: then the second is computed in float64. The
    rounding of float32's ``exp`` and sums depends on how a kernel splits its work, and MindSpore
    2.8 tries several splits in the first 15 calls on the CPU. After a restart the last digit of the
    loss may therefore differ though the weights are equal (seen for 4 of 5 batches of 4 images and
    6 classes; in float64 for none).

    With a teacher it takes the teacher's logits as a third input. What it reports is then of shape
    (3,): the loss, and its parts, the hard and the soft loss.

    Args:
        network: returns logits ``(N, classes)``, or a tuple of them and auxiliary logits.
        loss: takes logits and labels.
        exact: compute the reported loss in float64; loss and device must support that.
        fused: a cell that computes the loss of class indices instead, in float64 inside, so that
            the loss to report needs no second computation; None for the loss itself.
        distillation: adds the loss of a teacher's targets; None for labels alone.
    """

    def __init__(
        self,
        network: nn.Cell,
        loss: nn.Cell,
        exact: bool = False,
        fused: nn.Cell | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = loss
        self.exact = exact
        self.fused = fused
        self.distillation = distillation

    def construct(self, image, label, targets=None):
        """Return the loss and what to report."""
        logits = self.network(image)
        loss, reported = self._hard_loss(logits, label)
        if self.distillation is None:
            return loss, reported
        main = logits[0] if isinstance(logits, tuple) else logits
        soft = self.distillation.soft_loss(main, targets)
        total = self.distillation(reported, soft)
        return self.distillation(loss, soft), ops.stack((total, reported, soft))

    def _hard_loss(self, logits, label):
        """Return the loss of labels, and the same to report."""
        if self.fused is not None and label.ndim == 1:
            loss = _loss_in(ms.float32, self.fused, logits, label)
            return loss, loss
        loss = _loss_in(ms.float32, self.loss, logits, label)
        if not self.exact:
            return loss, loss
        return loss, ops.cast(_loss_in(ms.float64, self.loss, logits, label), ms.float32)


def _loss_in(dtype, loss, logits, label):
    """Compute a loss of logits, or of a tuple of them, in another type."""
    if isinstance(logits, tuple):
        outputs: tuple[Tensor, ...] = ()
        for each in logits:
            outputs += (ops.cast(each, dtype),)
        return loss(outputs, label)
    return loss(ops.cast(logits, dtype), label)


def _reducers(weights: tuple[Parameter, ...], ranks: int) -> tuple[nn.Cell, nn.Cell]:
    """MindSpore's cells that average gradients over the ranks, and that sum a tensor."""
    if ranks == 1:
        return nn.Identity(), nn.Identity()
    mean = nn.DistributedGradReducer(weights, mean=True, degree=ranks)
    return mean, ops.AllReduce(ops.ReduceOp.SUM)


def _as_count(value):
    """Convert a bool to a float32 of shape (1,) that can be summed over the ranks."""
    return ops.cast(value, ms.float32).reshape(1)


class Outcome(NamedTuple):
    """The result of an update; the same on all ranks, so that all of them act alike.

    Args:
        finite: whether the gradients of all ranks were finite.
        stop: whether any rank asked to stop after this update.
        save: whether any rank asked for a checkpoint after this update.
        scale_fell: whether this update lowered the loss scale, which is dynamic then.
    """

    finite: bool
    stop: bool
    save: bool
    scale_fell: bool = False

    @classmethod
    def read(cls, counts: Tensor) -> Outcome:
        """Fetch the outcome from the device; waits until the update is done.

        Args:
            counts: float32 (3,): how many ranks overflowed, asked to stop, and asked to save; with
                a dynamic loss scale (4,): then 1 if it fell, else 0.
        """
        overflowed, *others = (bool(count) for count in counts.asnumpy())
        return cls(not overflowed, *others)


class _Update(nn.Cell):
    """Updates the parameters from this rank's summed, scaled gradients.

    The order matters: all-reduce, unscale, check for overflow, clip. So the clipped norm is that of
    the global batch.

    The ranks' overflows and requests are summed over the ranks before anything is decided, so that
    all ranks skip the same updates and learn of a request after the same update. The reduced
    gradients aren't enough: where arithmetic saturates, an overflow leaves no infinity, and only
    the rank that overflowed knows of it (see ``overflow``). This costs one all-reduce of three
    numbers.
    """

    def __init__(
        self,
        optimizer: nn.Optimizer,
        loss_scale: LossScale,
        clip_norm: float | None,
        ema: EmaWeights | None,
        reducers: tuple[nn.Cell, nn.Cell],
        check: ValueCheck | StatusCheck,
        fused: nn.Cell | None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer
        self.fused = fused
        self.reducer, self.sum_over_ranks = reducers
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
        # A fused optimizer unscales by itself. The overflow check then sees scaled gradients: they
        # are finite exactly if the unscaled ones are, because no scale is below 1.
        self.unscales = fused is None or clip_norm is not None
        self.hyper_map = ops.HyperMap()

    def construct(self, gradients, micro_steps, overflowed=None):
        gradients = self.reducer(gradients)
        factor = 1.0 / (self.scale * micro_steps)
        if self.unscales:
            gradients = self.hyper_map(ops.partial(_scale_gradient, factor), gradients)
            factor = ops.ones_like(factor)
        overflow = _as_count(ops.logical_not(self.check(gradients)))
        if overflowed is not None:
            overflow = overflow + overflowed
        counts = self.sum_over_ranks(ops.concat((overflow, self.requests)))
        if self.skip_overflow:
            finite = counts[0] == 0
            if finite:
                counts = ops.depend(counts, self._apply(gradients, factor))
            if self.dynamic:
                counts = ops.concat((counts, self._adjust_scale(finite)))
            return counts
        return ops.depend(counts, self._apply(gradients, factor))

    def _apply(self, gradients, factor):
        if self.clip_norm is not None:
            gradients = ops.clip_by_global_norm(gradients, self.clip_norm)
        done = self.optimizer(gradients) if self.fused is None else self.fused(gradients, factor)
        if self.ema is not None:
            done = ops.depend(self.ema.updates, ops.depend(self.ema(), done))
        return done

    def _adjust_scale(self, finite):
        """Raise or lower the loss scale; return 1 if it fell, else 0.

        That goes out with the counts, because the scale itself may be a later update's by the time
        that anyone reads it.
        """
        fell = _as_count(ops.logical_and(ops.logical_not(finite), self.scale > 1))
        good = ops.select(finite, self.good_updates + 1, ops.zeros_like(self.good_updates))
        grown = good >= self.window
        scale = ops.select(grown, self.scale * 2, self.scale)
        # A scale above 2**24 is useless: 2**-24 is float16's smallest number.
        scale = ops.select(finite, ops.minimum(scale, 2.0**24), ops.maximum(scale / 2, 1.0))
        good = ops.select(grown, ops.zeros_like(good), good)
        # The old scale is compared before the new one is assigned.
        done = ops.assign(self.scale, ops.depend(scale, fell)), ops.assign(self.good_updates, good)
        return ops.depend(fell, done)


class TrainStep(NamesGraphOnce, nn.Cell):
    """``(image, label) -> (loss, counts)``: one forward and backward pass, and an update if due.

    :meth:`Outcome.read` reads the counts.

    With ``accumulation_steps`` 1 each call does an update. With more, a call adds to the gradient
    sums and :meth:`update` ends the group. The trainer calls it every ``accumulation_steps`` calls
    and at the end of an epoch, where a group may be shorter: the sum is divided by its actual
    length. The optimizer, and with it the learning rate, advances once per update.

    Args:
        network_with_loss: a :class:`NetworkWithLoss`.
        optimizer: a MindSpore optimizer; its own loss scale must be 1.
        loss_scale: see :class:`LossScale`.
        clip_norm: largest global norm of the gradients, or None.
        ema: averages to update, or None.
        accumulation_steps: calls per update.
        ranks: number of ranks whose gradients are averaged; if above 1, MindSpore's communication
            must be initialised, with parallel mode "data_parallel".
        reducers: a cell that averages a tuple of gradients over the ranks, and one that sums a
            tensor; both have to give all ranks the same bits. None for MindSpore's all-reduce.
        check: tells whether the gradients are finite; None for :class:`ValueCheck`.
        fused: a cell that does the optimizer's work on the optimizer's own state. It takes the
            gradients and the factor to multiply them by. None for the optimizer itself.
    """

    def __init__(
        self,
        network_with_loss: NetworkWithLoss,
        optimizer: nn.Optimizer,
        loss_scale: LossScale | None = None,
        clip_norm: float | None = None,
        ema: EmaWeights | None = None,
        accumulation_steps: int = 1,
        ranks: int = 1,
        reducers: tuple[nn.Cell, nn.Cell] | None = None,
        check: ValueCheck | StatusCheck | None = None,
        fused: nn.Cell | None = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.network_with_loss = network_with_loss
        self.network_with_loss.set_grad()
        distillation = network_with_loss.distillation
        self.teacher = None if distillation is None else distillation.teacher
        self.weights = optimizer.parameters
        self.accumulation_steps = accumulation_steps
        self.accumulates = accumulation_steps > 1
        loss_scale = loss_scale or LossScale()
        self.check = check or ValueCheck()
        self.updater = _Update(
            optimizer,
            loss_scale,
            clip_norm,
            ema,
            reducers or _reducers(self.weights, ranks),
            self.check,
            fused,
        )
        self.updater.set_train()
        self.sums = None
        self.overflowed = None
        if self.accumulates:
            self.sums = self.weights.clone("gradient_sum", init="zeros")
            if self.check.per_rank:
                # The register covers only the batch just computed; the update needs the group's.
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
        """The network being trained, without its loss."""
        return self.network_with_loss.network

    @property
    def scale(self) -> float:
        """The current loss scale."""
        return float(self.updater.scale.asnumpy())

    @property
    def updates_done(self) -> int:
        """Number of updates that the optimizer has done; skipped ones don't count."""
        return int(self.updater.optimizer.global_step.asnumpy()[0])

    def set_updates_done(self, updates: int) -> None:
        """Move the optimizer to another place in its schedule."""
        assign_parameter(self.updater.optimizer.global_step, np.array([updates], np.int32))

    @property
    def skips_overflow(self) -> bool:
        """Whether updates whose gradients aren't finite are skipped."""
        return self.updater.skip_overflow

    def request(self, stop: bool, save: bool) -> None:
        """Ask all ranks to stop, or to save, after the next update; False withdraws a request."""
        assign_parameter(self.updater.requests, np.array([stop, save], np.float32))

    def _scaled_loss(self, image, label, *targets):
        loss, reported = self.network_with_loss(image, label, *targets)
        return loss * self.updater.scale, reported

    def construct(self, image, label):
        """Return what to report of the loss, and the counts for :meth:`Outcome.read`."""
        targets: tuple[Tensor, ...] = ()
        if self.teacher is not None:
            # Outside of what is differentiated; before the check starts, so that an overflow of the
            # teacher's isn't taken for one of the gradients.
            targets = (self.teacher(image),)
            image = ops.depend(image, targets)
        (_, loss), gradients = self.value_and_grad(self.check.start(image), label, *targets)
        if self.accumulates:
            added = self.hyper_map(_add_gradient, self.sums, gradients)
            if self.overflowed is not None:
                bad = _as_count(ops.logical_not(self.check(ops.depend(gradients, added))))
                added = ops.depend(ops.assign_add(self.overflowed, bad), added)
            return ops.depend(loss, added), self.one
        return loss, self.updater(gradients, self.one)

    def compile_update(self, compile_cell: Compile) -> None:
        """Compile the graph of :meth:`update`, if gradients are accumulated."""
        if self.accumulates:
            compile_cell(self._finish, self.one)

    def update(self, micro_steps: int) -> Tensor:
        """End a group of accumulated micro-steps with one update.

        Args:
            micro_steps: length of the group.

        Returns:
            The counts for :meth:`Outcome.read`.
        """
        return self._finish(Tensor(float(micro_steps), ms.float32))


class _FinishGroup(NamesGraphOnce, nn.Cell):
    """Does the update at the end of an accumulated group, and sets the sums to zero."""

    def __init__(self, updater: _Update, sums, overflowed) -> None:
        super().__init__(auto_prefix=False)
        self.updater = updater
        self.sums = sums
        self.overflowed = overflowed
        self.hyper_map = ops.HyperMap()

    def construct(self, micro_steps):
        sums = self.updater.check.start(self.sums)
        counts = self.updater(sums, micro_steps, self.overflowed)
        cleared = self.hyper_map(_clear, ops.depend(self.sums, counts))
        if self.overflowed is not None:
            cleared = cleared, _clear_one(ops.depend(self.overflowed, counts))
        return ops.depend(counts, cleared)
