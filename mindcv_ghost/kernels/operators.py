"""The library's operators as cells with gradients.

Parameters come in as inputs, so that the cells hold none: checkpoints, optimizers and all-reduce
see the ordinary cells' own. A forward operator also returns the moving statistics' new values,
for the caller to assign; an operator that wrote them in place would need side effects, which graph
compilation has been seen to drop.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from mindcv_ghost.kernels.library import Library

__all__ = [
    "Convolution",
    "Evaluation",
    "GhostTail",
    "StemTail",
    "as_settings",
    "make_operator",
]


def make_operator(library: Library, name: str, shapes, outputs: int) -> ops.Custom:
    """Make one operator; ``shapes`` maps the inputs' shapes to the outputs'."""

    def types(first, *_):
        return first if outputs == 1 else (first,) * outputs

    return ops.Custom(f"{library.path}:{name}", shapes, types, func_type="aot")


def as_settings(*values: float) -> Tensor:
    """An operator's settings, which are its first input."""
    return Tensor([float(value) for value in values], mstype.float32)


def _half(size: int) -> int:
    return (size + 1) // 2


class Convolution(nn.Cell):
    """A convolution of one group, padded by half its odd, square kernel, with no bias.

    Args:
        library: where the operators are.
        stride: step of rows and columns.

    Inputs: x (N, in, H, W) and weight (out, in, k, k), float32.
    Outputs: (N, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = as_settings(stride)

        def shape(_, x, weight):
            return [x[0], weight[0], -(-x[2] // stride), -(-x[3] // stride)]

        def last(_, first, second, third):
            return third

        self.forward = make_operator(library, "ghost_conv", shape, 1)
        self.input_gradient = make_operator(library, "ghost_conv_backward_input", last, 1)
        self.weight_gradient = make_operator(library, "ghost_conv_backward_weight", last, 1)
        self.fork = _ForkedConvolution(library, self)

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight)

    def bprop(self, x, weight, out, dout):
        return (
            self.input_gradient(self.settings, dout, weight, x),
            self.weight_gradient(self.settings, x, dout, weight),
        )


class _ForkedConvolution(nn.Cell):
    """The convolution and its input, for another branch.

    The gradient that comes back from there is added while this one's is written, which spares a
    pass over three arrays of the input's size.
    """

    def __init__(self, library: Library, convolution: Convolution) -> None:
        super().__init__(auto_prefix=False)

        def last(_, first, second, third):
            return third

        self.settings = convolution.settings
        self.forward = convolution.forward
        self.input_gradient = make_operator(library, "ghost_conv_backward_input_add", last, 1)
        self.weight_gradient = convolution.weight_gradient

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight), x

    def bprop(self, x, weight, out, dout):
        return (
            self.input_gradient(self.settings, dout[0], weight, dout[1]),
            self.weight_gradient(self.settings, x, dout[0], weight),
        )


class Evaluation(nn.Cell):
    """An operator of evaluation, which has no gradient."""

    def __init__(self, library: Library, name: str, settings: Tensor, shape) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings
        self.forward = make_operator(library, name, shape, 1)

    def construct(self, *inputs):
        return self.forward(self.settings, *inputs)


class _TrainingTail(nn.Cell):
    """The tail in training: ``y``, what is saved for the gradient, four new moving statistics."""

    def __init__(self, library: Library, settings: Tensor, out_channels: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma1, b1, m1, v1, weight, gamma2, b2, m2, v2):
            y = [u[0], out_channels, u[2], u[3]]
            return y, [2 * u[1] + 2 * weight[0]], gamma1, gamma1, gamma2, gamma2

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy):
            return u, gamma1, beta1, weight, gamma2, beta2

        self.forward = make_operator(library, "ghost_tail", shapes, 6)
        self.backward = make_operator(library, "ghost_tail_backward", gradients, 6)

    def construct(self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2):
        return self.forward(
            self.settings, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2
        )

    def bprop(self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2, out, dout):
        du, dgamma1, dbeta1, dweight, dgamma2, dbeta2 = self.backward(
            self.settings, u, gamma1, beta1, weight, gamma2, beta2, out[1], dout[0]
        )
        none1, none2 = ops.zeros_like(mean1), ops.zeros_like(mean2)
        return du, dgamma1, dbeta1, none1, none1, dweight, dgamma2, dbeta2, none2, none2


class _TrainingTailAdd(nn.Cell):
    """As :class:`_TrainingTail`, with a shortcut that is added before a last ReLU."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma1, b1, m1, v1, weight, gamma2, b2, m2, v2, shortcut):
            return shortcut, [2 * u[1] + 2 * weight[0]], gamma1, gamma1, gamma2, gamma2

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy, y):
            return u, gamma1, beta1, weight, gamma2, beta2, y

        self.forward = make_operator(library, "ghost_tail_add", shapes, 6)
        self.backward = make_operator(library, "ghost_tail_add_backward", gradients, 7)

    def construct(
        self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2, shortcut
    ):
        return self.forward(
            *(self.settings, u, gamma1, beta1, mean1, var1),
            *(weight, gamma2, beta2, mean2, var2, shortcut),
        )

    def bprop(
        self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2, shortcut, out, dout
    ):
        du, dgamma1, dbeta1, dweight, dgamma2, dbeta2, dshortcut = self.backward(
            self.settings, u, gamma1, beta1, weight, gamma2, beta2, out[1], dout[0], out[0]
        )
        none1, none2 = ops.zeros_like(mean1), ops.zeros_like(mean2)
        return (
            *(du, dgamma1, dbeta1, none1, none1),
            *(dweight, dgamma2, dbeta2, none2, none2, dshortcut),
        )


class _TrainingStem(nn.Cell):
    """The stem in training: ``y``, what is saved for the gradient, two new moving statistics."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma, beta, mean, variance):
            return [u[0], u[1], _half(u[2]), _half(u[3])], [2 * u[1]], gamma, gamma

        def gradients(_, u, gamma, beta, saved, dy):
            return u, gamma, beta

        self.forward = make_operator(library, "ghost_stem", shapes, 4)
        self.backward = make_operator(library, "ghost_stem_backward", gradients, 3)

    def construct(self, u, gamma, beta, mean, variance):
        return self.forward(self.settings, u, gamma, beta, mean, variance)

    def bprop(self, u, gamma, beta, mean, variance, out, dout):
        du, dgamma, dbeta = self.backward(self.settings, u, gamma, beta, out[1], dout[0])
        none = ops.zeros_like(mean)
        return du, dgamma, dbeta, none, none


class GhostTail(nn.Cell):
    """What follows a Ghost module's primary convolution, in training and in evaluation.

    Args:
        library: where the operators are.
        first: the BN of the intrinsic maps; its epsilon and momentum are read here.
        second: that of the ghosts.
        out_channels: maps that go out; what the branches make beyond them is left out.
        relu: whether a ReLU follows either BN.

    Inputs:
        u (N, intrinsic, H, W), gamma, beta, moving mean and variance of ``first``, depthwise weight
        (ghosts, 1, d, d), the four of ``second``; a shortcut (N, out_channels, H, W), or None.

    Outputs:
        (N, out_channels, H, W): the maps, or ``relu(maps + shortcut)``.
    """

    def __init__(
        self,
        library: Library,
        first: nn.BatchNorm2d,
        second: nn.BatchNorm2d,
        out_channels: int,
        relu: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        # MindSpore keeps 1 - momentum: the share of the new batch.
        settings = as_settings(relu, first.eps, first.momentum, second.eps, second.momentum)

        def shape(_, u, *others):
            return [u[0], out_channels, u[2], u[3]]

        self.train_plain = _TrainingTail(library, settings, out_channels)
        self.train_add = None if relu else _TrainingTailAdd(library, settings)
        self.evaluate = Evaluation(library, "ghost_tail_evaluate", settings, shape)
        self.evaluate_add = None
        if not relu:
            self.evaluate_add = Evaluation(library, "ghost_tail_add_evaluate", settings, shape)

    def construct(
        self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2, shortcut=None
    ):
        inputs = (u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2)
        if not self.training:
            if shortcut is None:
                return self.evaluate(*inputs)
            return self.evaluate_add(*inputs, shortcut)
        if shortcut is None:
            y, _, new_mean1, new_var1, new_mean2, new_var2 = self.train_plain(*inputs)
        else:
            y, _, new_mean1, new_var1, new_mean2, new_var2 = self.train_add(*inputs, shortcut)
        done = (
            ops.assign(mean1, ops.stop_gradient(new_mean1)),
            ops.assign(var1, ops.stop_gradient(new_var1)),
            ops.assign(mean2, ops.stop_gradient(new_mean2)),
            ops.assign(var2, ops.stop_gradient(new_var2)),
        )
        return ops.depend(y, done)


class StemTail(nn.Cell):
    """What follows a ResNet's first convolution: BN, ReLU, max pool of 3x3 with stride 2.

    Args:
        library: where the operators are.
        norm: the BN, whose epsilon and momentum are read here.

    Inputs: u (N, C, H, W), gamma, beta, moving mean, moving variance.
    Outputs: (N, C, ceil(H / 2), ceil(W / 2)).
    """

    def __init__(self, library: Library, norm: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        settings = as_settings(norm.eps, norm.momentum)

        def shape(_, u, *others):
            return [u[0], u[1], _half(u[2]), _half(u[3])]

        self.train = _TrainingStem(library, settings)
        self.evaluate = Evaluation(library, "ghost_stem_evaluate", settings, shape)

    def construct(self, u, gamma, beta, mean, variance):
        if not self.training:
            return self.evaluate(u, gamma, beta, mean, variance)
        y, _, new_mean, new_variance = self.train(u, gamma, beta, mean, variance)
        done = (
            ops.assign(mean, ops.stop_gradient(new_mean)),
            ops.assign(variance, ops.stop_gradient(new_variance)),
        )
        return ops.depend(y, done)
