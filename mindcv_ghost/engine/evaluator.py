"""Exact evaluation: each image counts once, for any batch size and number of ranks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_ghost.compat import NamesGraphOnce
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.compilation import Compile, compile_uncached
from mindcv_ghost.report.evaluation import Evaluation

__all__ = ["Evaluator", "Forward", "Logits", "NetworkForward", "count_batch"]


class Logits(NamesGraphOnce, nn.Cell):
    """A network's logits in float32, without auxiliary logits.

    Args:
        network: ``(N, C, H, W) -> (N, classes)`` logits, or a tuple of them and auxiliary ones.
    """

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, image):
        """Return the logits of images."""
        logits = self.network(image)
        if isinstance(logits, tuple):
            logits = logits[0]
        return ops.cast(logits, ms.float32)


class Forward(Protocol):
    """What is evaluated: a function from images to logits."""

    def prepare(self, image: Tensor) -> None:
        """Get ready for images of this shape; called at the start of each evaluation."""

    def __call__(self, image: Tensor) -> np.ndarray:
        """Return the logits, float32 ``(N, classes)``, of images ``(N, C, H, W)``."""


class NetworkForward:
    """A cell's logits.

    Args:
        network: ``(N, C, H, W) -> (N, classes)`` logits.
        graph_mode: whether the network is compiled.
        compile: compiles a cell.
    """

    def __init__(
        self, network: nn.Cell, graph_mode: bool = True, compile: Compile = compile_uncached
    ) -> None:
        self.network = Logits(network)
        self._compiled = not graph_mode
        self._compile = compile

    def prepare(self, image: Tensor) -> None:
        """Set the network to evaluation, and compile it if it hasn't been yet."""
        self.network.set_train(False)
        if not self._compiled:
            self._compile(self.network, image)
            self._compiled = True

    def __call__(self, image: Tensor) -> np.ndarray:
        """Run the network."""
        return self.network(image).asnumpy()


class Evaluator:
    """Runs a network over a dataset and counts hits, summed over the ranks.

    Args:
        forward: the network; the time that it takes to get ready is measured separately.
        num_classes: number of classes.
        collectives: of all ranks.
    """

    def __init__(self, forward: Forward, num_classes: int, collectives: Collectives) -> None:
        self.forward = forward
        self.num_classes = num_classes
        self.collectives = collectives
        self.k = min(5, num_classes)

    def run(self, batches: Iterable) -> Evaluation:
        """Evaluate the network; every rank has to call it.

        Args:
            batches: yields tensors ``image (N, C, H, W)``, ``label (N,)`` and ``valid (N,)``: 0
                for padding, 1 for an image, 2 for an image that couldn't be decoded.
        """
        confusion = np.zeros((self.num_classes, self.num_classes), np.int64)
        unreadable = np.zeros(self.num_classes, np.int64)
        correct = np.zeros(2, np.int64)
        loss_sum, compile_seconds = 0.0, 0.0
        started = time.perf_counter()
        for step, (image, label, valid) in enumerate(batches):
            if step == 0:
                before = time.perf_counter()
                self.forward.prepare(image)
                compile_seconds = time.perf_counter() - before
            logits = self.forward(image)
            label, valid = label.asnumpy(), valid.asnumpy()
            np.add.at(unreadable, label[valid == 2], 1)
            label, logits = label[valid == 1], logits[valid == 1]
            counts = count_batch(logits, label, self.k)
            np.add.at(confusion, (label, counts.predicted), 1)
            correct += (counts.correct, counts.correct_topk)
            loss_sum += counts.loss_sum
        seconds = time.perf_counter() - started - compile_seconds
        return self._reduce(confusion, unreadable, correct, loss_sum, seconds, compile_seconds)

    def _reduce(
        self,
        confusion: np.ndarray,
        unreadable: np.ndarray,
        correct: np.ndarray,
        loss_sum: float,
        seconds: float,
        compile_seconds: float,
    ) -> Evaluation:
        """Sum the counts over the ranks; the times are those of the slowest rank."""
        confusion = self.collectives.total(confusion)
        unreadable = self.collectives.gather(unreadable).sum(0)
        correct = self.collectives.gather(correct).sum(0)
        # Summed in float64 and in the order of the ranks, so all ranks get the same bits.
        losses = self.collectives.gather(np.float64(loss_sum))
        times = self.collectives.gather(np.array([seconds, compile_seconds])).max(0)
        readable, bad = int(confusion.sum()), int(unreadable.sum())
        return Evaluation(
            images=readable + bad,
            correct=int(correct[0]),
            correct_topk=int(correct[1]),
            k=self.k,
            loss=float(losses.sum() / readable) if readable else float("nan"),
            unreadable=bad,
            seconds=float(times[0]),
            compile_seconds=float(times[1]),
            confusion=confusion,
            unreadable_per_class=unreadable,
        )


@dataclass(frozen=True)
class BatchCounts:
    """Counts of one batch.

    Args:
        predicted: classes ``(N,)``.
        correct: top-1 hits.
        correct_topk: top-k hits.
        loss_sum: sum of the cross-entropies.
    """

    predicted: np.ndarray
    correct: int
    correct_topk: int
    loss_sum: float


def count_batch(logits: np.ndarray, label: np.ndarray, k: int) -> BatchCounts:
    """Count the hits of one batch and sum its cross-entropy.

    The classes are ranked by descending logit; of equal logits the lower index comes first. So a
    tie has one outcome: of several classes with the highest logit only the first is a top-1 hit. A
    NaN counts as lower than all other logits, and a label whose logit is NaN is never a hit.

    Args:
        logits: ``(N, classes)`` float32.
        label: ``(N,)`` integers.
        k: how many of the highest count as a hit.

    >>> counts = count_batch(np.array([[1.0, 3.0, 3.0], [0.0, 2.0, 1.0]]), np.array([2, 0]), k=2)
    >>> counts.predicted.tolist(), counts.correct, counts.correct_topk
    ([1, 1], 0, 1)
    """
    if len(label) == 0:
        return BatchCounts(np.zeros(0, np.int64), 0, 0, 0.0)
    logits = logits.astype(np.float64)
    clean = np.where(np.isnan(logits), -np.inf, logits)
    rows = np.arange(len(label))
    own = clean[rows, label][:, np.newaxis]
    index = np.arange(logits.shape[1])[np.newaxis]
    before = (clean > own) | ((clean == own) & (index < label[:, np.newaxis]))
    place = np.where(np.isnan(logits[rows, label]), logits.shape[1], before.sum(1))
    highest = logits.max(1)
    log_sum = highest + np.log(np.exp(logits - highest[:, np.newaxis]).sum(1))
    loss = log_sum - logits[rows, label]
    predicted = clean.argmax(1)
    # A row of NaN alone predicts nothing. It counts for another class than its own, so that the
    # diagonal of the confusion matrix has the hits.
    predicted = np.where((predicted == label) & (place > 0), label - 1, predicted)
    predicted %= logits.shape[1]
    hits, hits_of_k = int((place < 1).sum()), int((place < k).sum())
    return BatchCounts(predicted, hits, hits_of_k, float(loss.sum()))
