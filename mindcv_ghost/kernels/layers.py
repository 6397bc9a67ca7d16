"""Layers of any network as cells with gradients: see :mod:`mindcv_ghost.kernels.operators`."""

from __future__ import annotations

from mindspore import nn, ops

from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.operators import (
    Evaluation,
    MoveStatistics,
    as_settings,
    make_operator,
    value_of,
)

__all__ = ["AllFinite", "BatchNorm", "Depthwise", "Mean", "Weighting"]


class Depthwise(nn.Cell):
    """A depthwise convolution, padded by half its odd kernel, with no bias.

    Args:
        library: where the operators are.
        stride: step of rows and columns, 1 or 2.

    Inputs: x (N, C, H, W) and weight (C * m, 1, kh, kw), float32.
    Outputs: (N, C * m, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.plain = _PlainDepthwise(library, stride)

    def construct(self, x, weight):
        return self.plain(x, value_of(weight))


class _PlainDepthwise(nn.Cell):
    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = as_settings(stride)

        def shape(_, x, weight):
            return [x[0], weight[0], -(-x[2] // stride), -(-x[3] // stride)]

        def gradients(_, x, weight, dy):
            return x, weight

        self.forward = make_operator(library, "ghost_depthwise", shape, 1)
        self.backward = make_operator(library, "ghost_depthwise_backward", gradients, 2)

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight)

    def bprop(self, x, weight, out, dout):
        return self.backward(self.settings, x, weight, dout)


class _TrainingNorm(nn.Cell):
    """In training: ``y``, and what is saved for the gradient."""

    def __init__(self, library: Library, settings) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, x, gamma, beta):
            return x, [2 * x[1]]

        def gradients(_, x, gamma, beta, saved, dy):
            return x, gamma, beta

        self.forward = make_operator(library, "ghost_norm", shapes, 2)
        self.backward = make_operator(library, "ghost_norm_backward", gradients, 3)

    def construct(self, x, gamma, beta):
        return self.forward(self.settings, x, gamma, beta)

    def bprop(self, x, gamma, beta, out, dout):
        return self.backward(self.settings, x, gamma, beta, out[1], dout[0])


class BatchNorm(nn.Cell):
    """Batch normalisation in training, where it moves its statistics, and in evaluation.

    Args:
        library: where the operators are.
        norm: the BN whose epsilon and momentum are read here.

    Inputs: x (N, C, H, W), gamma, beta, moving mean, moving variance.
    Outputs: (N, C, H, W).
    """

    def __init__(self, library: Library, norm: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        settings = as_settings(norm.eps)

        def shape(_, x, *others):
            return x

        self.train = _TrainingNorm(library, settings)
        self.move = MoveStatistics(library, norm)
        self.evaluate = Evaluation(library, "ghost_norm_evaluate", settings, shape)

    def construct(self, x, gamma, beta, mean, variance):
        if not self.training:
            return self.evaluate(x, gamma, beta, mean, variance)
        y, saved = self.train(x, value_of(gamma), value_of(beta))
        return ops.depend(y, self.move(x, saved, mean, variance))


class Mean(nn.Cell):
    """The mean of every map.

    Args:
        library: where the operators are.
        keep_dims: put out maps of one position instead of plain features.

    Inputs: x (N, C, H, W). Outputs: (N, C), or (N, C, 1, 1) with ``keep_dims``.
    """

    def __init__(self, library: Library, keep_dims: bool) -> None:
        super().__init__(auto_prefix=False)

        def shape(x):
            return [x[0], x[1], 1, 1] if keep_dims else [x[0], x[1]]

        def last(dy, x):
            return x

        self.forward = make_operator(library, "ghost_mean", shape, 1)
        self.backward = make_operator(library, "ghost_mean_backward", last, 1)

    def construct(self, x):
        return self.forward(x)

    def bprop(self, x, out, dout):
        return (self.backward(dout, x),)


class Weighting(nn.Cell):
    """Maps times weights that are enlarged to the maps' size by repetition.

    Args:
        library: where the operators are.

    Inputs: x (N, C, H, W) and weight (N, C, h, w), h up to H and w up to W. Outputs: (N, C, H, W).
    """

    def __init__(self, library: Library) -> None:
        super().__init__(auto_prefix=False)

        def first(x, *others):
            return x

        def gradients(x, weight, dy):
            return x, weight

        self.forward = make_operator(library, "ghost_weight", first, 1)
        self.backward = make_operator(library, "ghost_weight_backward", gradients, 2)

    def construct(self, x, weight):
        return self.forward(x, weight)

    def bprop(self, x, weight, out, dout):
        return self.backward(x, weight, dout)


class AllFinite(nn.Cell):
    """Whether all values of all gradients are finite, in one look at each.

    Args:
        path: of the library of operators.

    Inputs: a tuple of float32 tensors of any shapes. Outputs: a bool of shape ().
    """

    def __init__(self, path: str) -> None:
        super().__init__(auto_prefix=False)

        def shape(*gradients):
            return [1]

        def kind(first, *others):
            return first

        self.forward = ops.Custom(f"{path}:ghost_all_finite", shape, kind, func_type="aot")

    def construct(self, gradients):
        return self.forward(*gradients).reshape(()) > 0
