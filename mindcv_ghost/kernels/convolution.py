"""Dense and depthwise convolutions."""

from __future__ import annotations

from mindspore import nn

from mindcv_ghost.kernels.custom_op import custom_operator, read_once, settings_tensor
from mindcv_ghost.kernels.library import Library
from mindcv_ghost.kernels.native_cell import NativeCell, is_plain_conv

__all__ = [
    "DenseConvolution",
    "DepthwiseConvolution",
    "NativeConv2d",
    "NativeDepthwiseConv2d",
    "is_padded_by_half",
]


def _forward_shape(stride: int):
    """Shape of a convolution's output, from those of settings, input and weight."""

    def shape(_, x, weight):
        return [x[0], weight[0], -(-x[2] // stride), -(-x[3] // stride)]

    return shape


class DenseConvolution(nn.Cell):
    """A convolution of one group, padded by half its odd, square kernel, without bias.

    Args:
        library: that has the operators.
        stride: of rows and columns.

    Inputs: x (N, in, H, W) and weight (out, in, k, k), float32.
    Outputs: (N, out, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.plain = _DenseConvolution(library, stride)
        self.forked = _ForkedConvolution(library, self.plain)

    def construct(self, x, weight):
        return self.plain(x, read_once(weight))

    def fork(self, x, weight):
        """Return the output, and x for a second branch; one operator adds up both gradients."""
        return self.forked(x, read_once(weight))


class _DenseConvolution(nn.Cell):
    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings_tensor(stride)

        def last(_, first, second, third):
            return third

        self.forward = custom_operator(library, "ghost_conv", _forward_shape(stride), 1, [stride])
        self.input_gradient = custom_operator(library, "ghost_conv_backward_input", last, 1)
        self.weight_gradient = custom_operator(library, "ghost_conv_backward_weight", last, 1)

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight)

    def bprop(self, x, weight, out, dout):
        return (
            self.input_gradient(self.settings, dout, weight, x),
            self.weight_gradient(self.settings, x, dout, weight),
        )


class _ForkedConvolution(nn.Cell):
    """The convolution's output, and its input for a second branch.

    The second branch's gradient is added while the convolution's own input gradient is written,
    which saves a pass over three arrays of the input's size.
    """

    def __init__(self, library: Library, convolution: _DenseConvolution) -> None:
        super().__init__(auto_prefix=False)

        def last(_, first, second, third):
            return third

        self.settings = convolution.settings
        self.forward = convolution.forward
        self.input_gradient = custom_operator(library, "ghost_conv_backward_input_add", last, 1)
        self.weight_gradient = convolution.weight_gradient

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight), x

    def bprop(self, x, weight, out, dout):
        return (
            self.input_gradient(self.settings, dout[0], weight, dout[1]),
            self.weight_gradient(self.settings, x, dout[0], weight),
        )


class DepthwiseConvolution(nn.Cell):
    """A depthwise convolution, padded by half its odd kernel, without bias.

    Args:
        library: that has the operators.
        stride: of rows and columns, 1 or 2.

    Inputs: x (N, C, H, W) and weight (C * m, 1, kh, kw), float32.
    Outputs: (N, C * m, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.plain = _DepthwiseConvolution(library, stride)

    def construct(self, x, weight):
        return self.plain(x, read_once(weight))


class _DepthwiseConvolution(nn.Cell):
    def __init__(self, library: Library, stride: int) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings_tensor(stride)

        def gradients(_, x, weight, dy):
            return x, weight

        shape = _forward_shape(stride)
        self.forward = custom_operator(library, "ghost_depthwise", shape, 1, [stride])
        self.backward = custom_operator(library, "ghost_depthwise_backward", gradients, 2)

    def construct(self, x, weight):
        return self.forward(self.settings, x, weight)

    def bprop(self, x, weight, out, dout):
        return self.backward(self.settings, x, weight, dout)


class NativeConv2d(NativeCell, nn.Conv2d):
    """A dense ``nn.Conv2d`` on :class:`DenseConvolution`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return (
            is_plain_conv(cell)
            and cell.kernel_size[0] == cell.kernel_size[1]
            and cell.group == 1
            and is_padded_by_half(cell)
        )

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return DenseConvolution(library, cell.stride[0])

    def construct(self, x):
        y = self.operator(x, self.weight)
        if self.has_bias:
            y = self.bias_add(y, self.bias)
        return y

    def fork(self, x):
        """Return the output, and x for a second branch; one operator adds up both gradients."""
        y, x = self.operator.fork(x, self.weight)
        if self.has_bias:
            y = self.bias_add(y, self.bias)
        return y, x


class NativeDepthwiseConv2d(NativeCell, nn.Conv2d):
    """A depthwise ``nn.Conv2d`` on :class:`DepthwiseConvolution`."""

    @staticmethod
    def supports(cell: nn.Cell) -> bool:
        return (
            is_plain_conv(cell)
            and cell.group == cell.in_channels > 1
            and cell.stride[0] in (1, 2)
            and is_padded_by_half(cell)
        )

    @staticmethod
    def make_operator(cell: nn.Cell, library: Library) -> nn.Cell:
        return DepthwiseConvolution(library, cell.stride[0])

    def construct(self, x):
        y = self.operator(x, self.weight)
        if self.has_bias:
            y = self.bias_add(y, self.bias)
        return y


def is_padded_by_half(conv: nn.Conv2d) -> bool:
    """Whether a kernel is odd, padded by half its size, not dilated, and its strides are equal."""
    rows, columns = conv.kernel_size
    stride = conv.stride
    if rows % 2 == 0 or columns % 2 == 0 or stride[0] != stride[1] or set(conv.dilation) != {1}:
        return False
    if conv.data_format != "NCHW":
        return False
    if conv.pad_mode == "pad":
        padding = conv.padding if isinstance(conv.padding, tuple) else (conv.padding,) * 4
        return tuple(padding) == (rows // 2, rows // 2, columns // 2, columns // 2)
    if conv.pad_mode == "same":  # with a stride of 2, the padding depends on the maps' size
        return stride[0] == 1 or (rows, columns) == (1, 1)
    return (rows, columns) == (1, 1)
