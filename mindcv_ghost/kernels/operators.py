"""The library's operators as cells with gradients.

Parameters come in as inputs, so that the cells hold none: checkpoints, optimizers and all-reduce
see the ordinary cells' own. A forward operator saves the batch's statistics for its gradient, and
another one moves the moving statistics by them where they lie.
"""

from __future__ import annotations

from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import signature

from mindcv_ghost.kernels.library import Library

__all__ = [
    "Convolution",
    "Evaluation",
    "GhostTail",
    "MoveStatistics",
    "StemTail",
    "as_settings",
    "make_operator",
    "make_writer",
    "value_of",
]


def make_operator(library: Library, name: str, shapes, outputs: int) -> ops.Custom:
    """Make one operator; ``shapes`` maps the inputs' shapes to the outputs'."""

    def types(first, *_):
        return first if outputs == 1 else (first,) * outputs

    return ops.Custom(f"{library.path}:{name}", shapes, types, func_type="aot")


def make_writer(path: str, name: str, read: int, written: int) -> ops.Custom:
    """Make an operator that changes parameters where they lie.

    It has one output, to depend on: with a second one that nobody reads, MindSpore 2.8 says that
    it has eliminated side effects.

    Args:
        path: of the library of operators.
        name: of the operator.
        read: number of inputs that it only reads.
        written: number of parameters behind them, which it changes.
    """

    def shape(*_):
        return [1]

    def kind(first, *_):
        return first

    operator = ops.Custom(f"{path}:{name}", shape, kind, func_type="aot")
    inputs = [signature.make_sig(f"read{i}") for i in range(read)]
    writes = signature.sig_rw.RW_WRITE
    inputs += [signature.make_sig(f"written{i}", writes) for i in range(written)]
    operator.set_signatures(tuple(inputs))
    operator.add_prim_attr("side_effect_mem", True)
    return operator


def value_of(parameter):
    """A parameter's value, for a cell with a gradient of its own.

    Given the parameter itself, the cell's forward and backward pass would each read it, and as
    other parameters are written in between MindSpore 2.8 would copy it for both.
    """
    return ops.reshape(parameter, parameter.shape)


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
        self.plain = _PlainConvolution(library, stride)
        self.forked = _ForkedConvolution(library, self.plain)

    def construct(self, x, weight):
        return self.plain(x, value_of(weight))

    def fork(self, x, weight):
        """The outputs and x, for a second branch: the gradients of both are one sum."""
        return self.forked(x, value_of(weight))


class _PlainConvolution(nn.Cell):
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

    def __init__(self, library: Library, convolution: _PlainConvolution) -> None:
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


class MoveStatistics(nn.Cell):
    """Moves the statistics of batch normalisations, where they lie, by those of a batch.

    Args:
        library: where the operators are.
        norms: the BNs, whose momentum is read here.

    Inputs: the maps, which tell the batch's size, what the forward operator has saved, then moving
    mean and variance of each BN. Outputs: something to depend on.
    """

    def __init__(self, library: Library, *norms: nn.BatchNorm2d) -> None:
        super().__init__(auto_prefix=False)
        # MindSpore keeps 1 - momentum: the share of the new batch.
        self.settings = as_settings(*(norm.momentum for norm in norms))
        self.forward = make_writer(str(library.path), "ghost_move", 3, 2 * len(norms))

    def construct(self, x, saved, *statistics):
        x, saved = ops.stop_gradient(x), ops.stop_gradient(saved)
        return self.forward(self.settings, x, saved, *statistics)


class _TrainingTail(nn.Cell):
    """The tail in training: ``y``, and what is saved for the gradient."""

    def __init__(self, library: Library, settings: Tensor, out_channels: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma1, beta1, weight, gamma2, beta2):
            return [u[0], out_channels, u[2], u[3]], [2 * u[1] + 2 * weight[0]]

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy):
            return u, gamma1, beta1, weight, gamma2, beta2

        self.forward = make_operator(library, "ghost_tail", shapes, 2)
        self.backward = make_operator(library, "ghost_tail_backward", gradients, 6)

    def construct(self, u, gamma1, beta1, weight, gamma2, beta2):
        return self.forward(self.settings, u, gamma1, beta1, weight, gamma2, beta2)

    def bprop(self, u, gamma1, beta1, weight, gamma2, beta2, out, dout):
        return self.backward(
            self.settings, u, gamma1, beta1, weight, gamma2, beta2, out[1], dout[0]
        )


class _TrainingTailAdd(nn.Cell):
    """As :class:`_TrainingTail`, with a shortcut that is added before a last ReLU."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma1, beta1, weight, gamma2, beta2, shortcut):
            return shortcut, [2 * u[1] + 2 * weight[0]]

        def gradients(_, u, gamma1, beta1, weight, gamma2, beta2, saved, dy, y):
            return u, gamma1, beta1, weight, gamma2, beta2, y

        self.forward = make_operator(library, "ghost_tail_add", shapes, 2)
        self.backward = make_operator(library, "ghost_tail_add_backward", gradients, 7)

    def construct(self, u, gamma1, beta1, weight, gamma2, beta2, shortcut):
        return self.forward(self.settings, u, gamma1, beta1, weight, gamma2, beta2, shortcut)

    def bprop(self, u, gamma1, beta1, weight, gamma2, beta2, shortcut, out, dout):
        return self.backward(
            self.settings, u, gamma1, beta1, weight, gamma2, beta2, out[1], dout[0], out[0]
        )


class _TrainingStem(nn.Cell):
    """The stem in training: ``y``, and what is saved for the gradient."""

    def __init__(self, library: Library, settings: Tensor) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings

        def shapes(_, u, gamma, beta):
            return [u[0], u[1], _half(u[2]), _half(u[3])], [2 * u[1]]

        def gradients(_, u, gamma, beta, saved, dy):
            return u, gamma, beta

        self.forward = make_operator(library, "ghost_stem", shapes, 2)
        self.backward = make_operator(library, "ghost_stem_backward", gradients, 3)

    def construct(self, u, gamma, beta):
        return self.forward(self.settings, u, gamma, beta)

    def bprop(self, u, gamma, beta, out, dout):
        return self.backward(self.settings, u, gamma, beta, out[1], dout[0])


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
        settings = as_settings(relu, first.eps, second.eps)

        def shape(_, u, *others):
            return [u[0], out_channels, u[2], u[3]]

        self.train_plain = _TrainingTail(library, settings, out_channels)
        self.train_add = None if relu else _TrainingTailAdd(library, settings)
        self.move = MoveStatistics(library, first, second)
        self.evaluate = Evaluation(library, "ghost_tail_evaluate", settings, shape)
        self.evaluate_add = None
        if not relu:
            self.evaluate_add = Evaluation(library, "ghost_tail_add_evaluate", settings, shape)

    def construct(
        self, u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2, shortcut=None
    ):
        if not self.training:
            inputs = (u, gamma1, beta1, mean1, var1, weight, gamma2, beta2, mean2, var2)
            if shortcut is None:
                return self.evaluate(*inputs)
            return self.evaluate_add(*inputs, shortcut)
        inputs = (u, value_of(gamma1), value_of(beta1))
        inputs += (value_of(weight), value_of(gamma2), value_of(beta2))
        if shortcut is None:
            y, saved = self.train_plain(*inputs)
        else:
            y, saved = self.train_add(*inputs, shortcut)
        return ops.depend(y, self.move(u, saved, mean1, var1, mean2, var2))


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
        settings = as_settings(norm.eps)

        def shape(_, u, *others):
            return [u[0], u[1], _half(u[2]), _half(u[3])]

        self.train = _TrainingStem(library, settings)
        self.move = MoveStatistics(library, norm)
        self.evaluate = Evaluation(library, "ghost_stem_evaluate", settings, shape)

    def construct(self, u, gamma, beta, mean, variance):
        if not self.training:
            return self.evaluate(u, gamma, beta, mean, variance)
        y, saved = self.train(u, value_of(gamma), value_of(beta))
        return ops.depend(y, self.move(u, saved, mean, variance))
