"""Cheaper forms of the transforms give the same numbers as MindCV's."""

from __future__ import annotations

import mindspore.dataset.vision as vision
import numpy as np
import pytest

from mindcv_ghost.data import Augment
from mindcv_ghost.data.transforms.factory import _transpose_first, eval_transforms, train_transforms

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def test_normalising_after_the_transposition_gives_the_same_bits():
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    image = np.ascontiguousarray(image * np.array([1, 3, 7], np.uint8))
    original = [vision.Normalize(MEAN, STD), vision.HWC2CHW()]
    reordered = _transpose_first(original)
    assert [type(op) for op in reordered] == [vision.HWC2CHW, vision.Normalize]
    results = []
    for ops in (original, reordered):
        value = image
        for op in ops:
            value = op(value)
        results.append(value)
    assert results[0].dtype == np.float32 and results[0].shape == (3, 16, 16)
    np.testing.assert_array_equal(results[1], results[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_both_splits_transpose_bytes_instead_of_floats(channels):
    transforms = train_transforms("imagenet", Augment(), channels)
    for ops in (transforms.final, eval_transforms("imagenet", Augment(), channels)):
        kinds = [type(op) for op in ops]
        assert kinds.index(vision.HWC2CHW) + 1 == kinds.index(vision.Normalize)


def test_other_operations_keep_their_order():
    ops = [vision.Normalize(MEAN, STD), vision.VerticalFlip(), vision.HWC2CHW()]
    assert _transpose_first(ops) == ops
