"""The stem's max pool: PyTorch's padding, and gradients that go where the maximum is."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.layers import StemMaxPool

from ..helpers.numpy_reference import max_pool


@pytest.fixture(params=[ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"])
def mode(request):
    ms.set_context(mode=request.param)


class Weighted(nn.Cell):
    """The sum of a pool's outputs, each with a weight of its own."""

    def __init__(self, pool: nn.Cell) -> None:
        super().__init__()
        self.pool = pool

    def construct(self, x, weights):
        return (self.pool(x) * weights).sum()


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (2, 5), (1, 1)], ids=str)
def test_pool_is_pytorchs_whatever_the_sign_of_its_input(mode, size):
    x = np.random.RandomState(0).standard_normal((2, 3, *size)).astype(np.float32) - 2.0
    np.testing.assert_array_equal(StemMaxPool()(Tensor(x)).asnumpy(), max_pool(x))


@pytest.mark.parametrize("size", [(8, 8), (9, 7)], ids=str)
def test_gradients_equal_those_of_the_padded_pool_at_ties_too(mode, size):
    random = np.random.RandomState(0)
    # Few distinct values: most windows hold their maximum more than once.
    x = random.randint(-2, 2, (2, 3, *size)).astype(np.float32)
    weights = random.standard_normal(max_pool(x).shape).astype(np.float32)
    padded = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="pad", padding=1)
    got, expected = (
        ms.grad(Weighted(pool))(Tensor(x), Tensor(weights)).asnumpy()
        for pool in (StemMaxPool(), padded)
    )
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert got.sum() == pytest.approx(weights.sum(), abs=1e-4)
