"""Every row of the table computes what MindSpore's primitive does, for batches of any size."""

import inspect

import numpy as np
import pytest
from mindspore import nn, ops

from mindcv_ghost.export import UntranslatablePrimitive, build_onnx
from tests.export import functions
from tests.export.running import export_and_compare, random_images, run


class Of(nn.Cell):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, x):
        return self.function(x)


CELLS = {
    "abs": ops.abs,
    "average pool": nn.AvgPool2d(3, 2),
    "average pool, same": nn.AvgPool2d(3, 2, pad_mode="same"),
    "average pool, padded": nn.AvgPool2d(3, 2, pad_mode="pad", padding=1),
    "average pool, padded without counting": nn.AvgPool2d(
        3, 2, pad_mode="pad", padding=1, count_include_pad=False
    ),
    "elu": nn.ELU(),
    "erf": ops.erf,
    "exp": ops.exp,
    "flatten": nn.Flatten(),
    "gelu by tanh": nn.GELU(),
    "gelu": nn.GELU(approximate=False),
    "group norm": nn.GroupNorm(1, 3),
    "hard sigmoid": nn.HSigmoid(),
    "hard swish": nn.HSwish(),
    "l2 normalise": ops.L2Normalize(axis=1),
    "layer norm": nn.LayerNorm((8, 6), begin_norm_axis=2, begin_params_axis=2),
    "leaky relu": nn.LeakyReLU(0.2),
    "log softmax": nn.LogSoftmax(1),
    "max pool": nn.MaxPool2d(3, 2),
    "max pool, same": nn.MaxPool2d(3, 2, pad_mode="same"),
    "max pool, padded": nn.MaxPool2d(3, 2, pad_mode="pad", padding=1),
    "mish": nn.Mish(),
    "pad": nn.Pad(((0, 0), (0, 0), (1, 2), (3, 0))),
    "pad with a number": nn.ConstantPad2d((1, 2, 0, 1), 0.5),
    "pad by reflection": nn.ReflectionPad2d((1, 2, 0, 1)),
    "prelu": nn.PReLU(3),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "round": ops.round,
    "sigmoid": nn.Sigmoid(),
    "silu": nn.SiLU(),
    "softmax": nn.Softmax(1),
    "tanh": ops.tanh,
}
FUNCTIONS = {name: f for name, f in vars(functions).items() if inspect.isfunction(f)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_computes_the_same_as_in_mindspore(name):
    export_and_compare(Of(FUNCTIONS[name]))


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_computes_the_same_as_in_mindspore(name):
    export_and_compare(Of(CELLS[name]))


@pytest.mark.parametrize("mode", ["same", "pad", "valid"])
@pytest.mark.parametrize("stride, dilation", [(1, 1), (2, 1), (3, 1), (1, 2)])
@pytest.mark.parametrize("kernel", [(2, 3), (4, 1)])
def test_convolutions_pad_as_in_mindspore(mode, stride, dilation, kernel):
    padding = (1, 2, 0, 1) if mode == "pad" else 0
    conv = nn.Conv2d(
        3, 4, kernel, stride, mode, padding, dilation, has_bias=True, bias_init="normal"
    )
    export_and_compare(conv, height=11, width=9)


def test_grouped_convolutions_are_the_same():
    export_and_compare(nn.Conv2d(6, 9, 3, group=3), channels=6)


def test_layers_on_the_last_axis_are_the_same():
    export_and_compare(nn.SequentialCell(nn.Dense(6, 5), nn.GELU(), nn.Dense(5, 4)))


class Einsum(nn.Cell):
    def construct(self, x):
        return ops.einsum("bchw,bdhw->bcd", x, x)


class Roll(nn.Cell):
    def construct(self, x):
        return ops.roll(x, (-2, 1), (2, 3))


def test_what_mindspore_cant_run_on_the_cpu_is_as_in_numpy():
    images = random_images()
    einsum = np.einsum("bchw,bdhw->bcd", images, images)
    model = build_onnx(Einsum(), image_size=(8, 6))
    np.testing.assert_allclose(run(model, images), einsum, rtol=1e-4)
    model = build_onnx(Roll(), image_size=(8, 6))
    np.testing.assert_array_equal(run(model, images), np.roll(images, (-2, 1), (2, 3)))


def test_patches_are_in_the_order_of_mindspores_gpu_kernel():
    images = random_images(2, 3, 9, 8)
    unfold = nn.Unfold([1, 3, 2, 1], [1, 2, 3, 1], [1, 1, 2, 1])
    given = run(build_onnx(unfold, image_size=(9, 8)), images)
    assert given.shape == (2, 3 * 2 * 3, 4, 2)
    for row, column, channel in np.ndindex(3, 2, 3):
        wanted = images[:, channel, row : row + 7 : 2, 2 * column : 2 * column + 4 : 3]
        np.testing.assert_array_equal(given[:, (row * 2 + column) * 3 + channel], wanted)


class Missing(nn.Cell):
    def construct(self, x):
        return ops.erfinv(ops.clamp(x, -0.9, 0.9))


def test_a_primitive_without_a_row_is_named_with_its_layer():
    network = nn.SequentialCell(nn.ReLU(), Missing())
    with pytest.raises(UntranslatablePrimitive, match=r"Erfinv in 1 can't.*--format mindir"):
        build_onnx(network, image_size=(8, 6))
