"""Accuracies don't depend on the batch size, and ties have one outcome."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.evaluator import Evaluator, NetworkForward, count_batch


class Passing(nn.Cell):
    """The images are the logits."""

    def construct(self, image):
        return image * 1


def batches_of(logits, labels, size, valid=None):
    """Cut a set into batches of one shape, padded with rows that mustn't count."""
    valid = np.ones(len(labels)) if valid is None else valid
    out = []
    for start in range(0, len(labels), size):
        part = slice(start, start + size)
        missing = size - len(labels[part])
        rows = np.concatenate([logits[part], np.full((missing, logits.shape[1]), 99.0)])
        out.append(
            (
                Tensor(rows.astype(np.float32)),
                Tensor(np.concatenate([labels[part], np.zeros(missing)]).astype(np.int32)),
                Tensor(np.concatenate([valid[part], np.zeros(missing)]).astype(np.int32)),
            )
        )
    return out


def brute_force(logits, labels, k):
    order = np.argsort(-logits, axis=1, kind="stable")
    hit = order == labels[:, None]
    return int(hit[:, 0].sum()), int(hit[:, :k].sum())


@pytest.mark.parametrize("size", [1, 7, 32, 77, 100])
def test_counts_do_not_depend_on_the_batch_size(size):
    rng = np.random.default_rng(3)
    logits = rng.integers(0, 6, (77, 12)).astype(np.float32)  # small integers: many ties
    labels = rng.integers(0, 12, 77)
    result = Evaluator(NetworkForward(Passing()), 12, Collectives()).run(
        batches_of(logits, labels, size)
    )
    assert result.images == 77
    assert (result.correct, result.correct_topk) == brute_force(logits, labels, 5)
    assert result.k == 5
    assert result.confusion.sum() == 77
    assert np.trace(result.confusion) == result.correct
    shifted = logits - logits.max(1, keepdims=True)
    loss = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(77), labels]
    assert result.loss == pytest.approx(loss.mean(), rel=1e-6)


def test_with_fewer_than_five_classes_k_is_the_number_of_classes():
    logits, labels = np.eye(3, dtype=np.float32), np.array([0, 2, 1])
    result = Evaluator(NetworkForward(Passing()), 3, Collectives()).run(
        batches_of(logits, labels, 2)
    )
    assert (result.k, result.correct, result.correct_topk) == (3, 1, 3)
    assert result.topk == 100.0


def test_unreadable_images_count_as_wrong_and_are_reported():
    logits, labels = np.eye(4, dtype=np.float32), np.arange(4)
    valid = np.array([1, 2, 1, 2])
    result = Evaluator(NetworkForward(Passing()), 4, Collectives()).run(
        batches_of(logits, labels, 3, valid)
    )
    assert (result.images, result.unreadable, result.correct) == (4, 2, 2)
    assert result.top1 == 50.0
    assert result.unreadable_per_class.tolist() == [0, 1, 0, 1]


def test_of_equal_logits_the_first_class_is_the_prediction():
    counts = count_batch(np.zeros((6, 6), np.float32), np.arange(6), 5)
    assert (counts.correct, counts.correct_topk) == (1, 5)


def test_a_label_whose_logit_is_nan_is_never_a_hit():
    logits = np.full((3, 6), np.nan, np.float32)
    logits[1, :] = [1, np.nan, 0, 0, 0, 0]
    counts = count_batch(logits, np.array([0, 0, 1]), 5)
    assert (counts.correct, counts.correct_topk) == (1, 1)
    assert np.isnan(counts.loss_sum)
    # The diagonal of the confusion matrix has the hits alone.
    assert counts.predicted.tolist() == [5, 0, 0]
