"""Every row of the table computes what MindSpore's primitive does, for batches of any size."""

import inspect

import mindspore as ms
import numpy as np
import onnxruntime
import pytest
from mindspore import nn, ops

from mindcv_ghost.export import build_onnx
from tests.export import functions


class Of(nn.Cell):
    """A network that is one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def construct(self, x):
        return self.function(x)


def run(model, images):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": images})[0]


def images(batch=3, channels=3, height=8, width=6, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, channels, height, width)).astype("f")


def check(network, channels=3, height=8, width=6, dynamic=("batch",), batches=(1, 3)):
    network.set_train(False)
    model = build_onnx(network, image_size=(height, width), in_channels=channels, dynamic=dynamic)
    for batch in batches:
        x = images(batch, channels, height, width, seed=batch)
        wanted = network(ms.Tensor(x)).asnumpy()
        given = run(model, x)
        assert given.shape == wanted.shape
        np.testing.assert_allclose(given, wanted, rtol=2e-5, atol=2e-5)
    return model


def kinds(model):
    return [node.op_type for node in model.graph.node]


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
    check(Of(FUNCTIONS[name]))


@pytest.mark.parametrize("name", CELLS)
def test_a_layer_computes_the_same_as_in_mindspore(name):
    check(Of(CELLS[name]))
