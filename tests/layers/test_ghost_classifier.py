"""The Ghost classifier: what it computes, holds and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

import mindcv_ghost
from mindcv_ghost.analysis.complexity import count_parameters
from mindcv_ghost.layers import GhostClassifier


@pytest.mark.parametrize("classes, ratio", [(10, 2), (10, 3), (7, 1), (5, 5)])
def test_ghost_logits_are_multiples_of_intrinsic_ones(classes, ratio):
    layer = GhostClassifier(6, classes, ratio)
    x = np.random.RandomState(0).standard_normal((3, 6)).astype(np.float32)
    intrinsic = x @ layer.primary.weight.asnumpy().T + layer.primary.bias.asnumpy()
    expected = intrinsic
    if ratio > 1:
        times = layer.cheap.weight.asnumpy().reshape(-1)
        ghosts = np.repeat(intrinsic, ratio - 1, axis=1) * times + layer.cheap.bias.asnumpy()
        expected = np.concatenate([intrinsic, ghosts], axis=1)[:, :classes]
    got = layer(Tensor(x)).asnumpy()
    assert got.shape == (3, classes)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ratio, count", [(2, 12_930_012), (4, 6_616_502)])
def test_ghost_resnet50_with_it_comes_near_the_papers_parameters(ratio, count):
    network = mindcv_ghost.create_model("ghost_resnet50", ratio=ratio, ghost_classifier=True)
    assert count_parameters(network) == count


def test_fewer_classes_than_the_ratio_are_refused():
    with pytest.raises(ValueError, match="ratio is 4, .* of 3 maps needs a ratio within 1..3"):
        GhostClassifier(8, 3, 4)


def test_name_with_a_ratio_refuses_another_one():
    with pytest.raises(ValueError, match="ghost_resnet50_s4 has ratio 4, not 2"):
        mindcv_ghost.create_model("ghost_resnet50_s4", ratio=2)
