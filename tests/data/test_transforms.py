"""The transforms' cheap forms give the numbers of the dear ones."""

from __future__ import annotations

import platform
import subprocess
import sys

import mindspore.dataset.vision as vision
import numpy as np
import pytest

from mindcv_ghost.data import Augment
from mindcv_ghost.data.transforms.transforms import _planes_first, eval_transforms, train_transforms

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def test_planes_are_normalised_to_the_same_bits_as_pixels():
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    image = np.ascontiguousarray(image * np.array([1, 3, 7], np.uint8))
    dear = [vision.Normalize(MEAN, STD), vision.HWC2CHW()]
    cheap = _planes_first(dear)
    assert [type(op) for op in cheap] == [vision.HWC2CHW, vision.Normalize]
    results = []
    for ops in (dear, cheap):
        value = image
        for op in ops:
            value = op(value)
        results.append(value)
    assert results[0].dtype == np.float32 and results[0].shape == (3, 16, 16)
    np.testing.assert_array_equal(results[1], results[0])


@pytest.mark.parametrize("channels", [1, 3])
def test_both_splits_turn_bytes_and_not_floats(channels):
    steps = train_transforms("imagenet", Augment(), channels)
    for ops in (steps.after, eval_transforms("imagenet", Augment(), channels)):
        kinds = [type(op) for op in ops]
        assert kinds.index(vision.HWC2CHW) + 1 == kinds.index(vision.Normalize)


def test_other_operations_stay_where_they_are():
    ops = [vision.Normalize(MEAN, STD), vision.VerticalFlip(), vision.HWC2CHW()]
    assert _planes_first(ops) == ops


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc alone")
def test_large_blocks_cost_page_faults_once():
    script = """
import resource
from mindcv_ghost.data.pipeline.memory import keep_large_blocks
import numpy as np
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(40 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
assert keep_large_blocks()
faults()
print(before, faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < before / 5
