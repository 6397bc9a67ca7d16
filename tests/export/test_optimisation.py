"""What a network is reduced to, and that it still computes the same."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.layers import GhostModule
from mindcv_ghost.layers.max_pool import StemMaxPool
from tests.export.running import export_and_compare, kinds
from tests.helpers.randomised import randomise


def exported(network, **options):
    randomise(network)
    return kinds(export_and_compare(network, **options))


def conv_bn(kernel, padding, channels=3, group=1, stride=1):
    conv = nn.Conv2d(3, channels, kernel, stride, "pad", padding, group=group)
    return nn.SequentialCell(conv, nn.BatchNorm2d(channels))


def test_batch_norm_is_folded_into_a_convolution():
    assert exported(nn.SequentialCell(conv_bn(3, 1, 4), nn.ReLU())) == ["Conv", "Relu"]
    assert exported(conv_bn(3, 1, group=3)) == ["Conv"]


def test_batch_norm_is_folded_into_a_linear_layer():
    network = nn.SequentialCell(nn.Flatten(), nn.Dense(144, 5), nn.BatchNorm1d(5))
    assert exported(network) == ["Reshape", "Gemm"]


def test_batch_norm_before_a_convolution_stays():
    network = nn.SequentialCell(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 3))
    assert exported(network) == ["BatchNormalization", "Relu", "Conv"]


class ReadTwice(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)

    def construct(self, x):
        x = self.conv(x)
        return self.bn(x) * x


def test_batch_norm_isnt_folded_into_what_others_read():
    assert exported(ReadTwice()) == ["Conv", "BatchNormalization", "Mul"]


class Shared(nn.Cell):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bns = nn.CellList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def construct(self, x):
        return self.bns[1](self.conv(ops.relu(self.bns[0](self.conv(x)))))


def test_a_weight_that_two_layers_share_is_folded_for_each():
    assert exported(Shared()) == ["Conv", "Relu", "Conv"]


class LayerScale(nn.Cell):
    def __init__(self):
        super().__init__()
        self.fc = nn.Dense(6, 4)
        self.gamma = Parameter(Tensor(np.arange(4.0), ms.float32), name="gamma")

    def construct(self, x):
        return self.gamma * self.fc(x)


def test_a_layer_scale_is_folded_into_the_linear_layer():
    assert exported(LayerScale()) == ["MatMul", "Add"]


def test_linear_layers_of_more_dimensions_need_no_reshapes():
    network = nn.SequentialCell(nn.Dense(6, 5), nn.GELU(), nn.Dense(5, 4), nn.ReLU())
    assert exported(network) == ["MatMul", "Add", "Gelu", "MatMul", "Add", "Relu"]


class Parallel(nn.Cell):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.CellList(list(branches))

    def construct(self, x):
        y = self.branches[0](x)
        for branch in self.branches[1:]:
            y = y + branch(x)
        return y


@pytest.mark.parametrize(
    "branches",
    [
        lambda: (conv_bn(3, 1), conv_bn(1, 0), nn.BatchNorm2d(3)),
        lambda: (nn.BatchNorm2d(3), conv_bn(1, 0, group=3), conv_bn(5, 2, group=3)),
        lambda: (conv_bn(3, 1, 4, stride=2), conv_bn(1, 0, 4, stride=2)),
        lambda: (conv_bn(4, (1, 2, 1, 2)), conv_bn(4, (2, 1, 2, 1))),
    ],
)
def test_parallel_branches_are_one_convolution(branches):
    assert exported(Parallel(*branches())) == ["Conv"]


@pytest.mark.parametrize(
    "branches",
    [
        lambda: (conv_bn(3, 1, 6), conv_bn(1, 0, 6, group=3)),
        lambda: (conv_bn((1, 3), (0, 0, 1, 1)), conv_bn((3, 1), (1, 1, 0, 0))),
    ],
)
def test_branches_that_dont_fit_stay_apart(branches):
    assert exported(Parallel(*branches())) == ["Conv", "Conv", "Add"]


def test_the_pool_of_a_stem_pads_itself():
    assert exported(StemMaxPool()) == ["MaxPool"]


def test_padding_is_the_convolutions_own():
    network = nn.SequentialCell(nn.Pad(((0, 0), (0, 0), (1, 2), (0, 1))), nn.Conv2d(3, 4, 3))
    network[1].pad_mode = "valid"
    model = kinds(export_and_compare(nn.SequentialCell(network[0], conv_bn(3, 0))))
    assert model == ["Conv"]


def test_zeros_beside_a_feature_map_are_a_pad():
    class Zeros(nn.Cell):
        def construct(self, x):
            zeros = ops.zeros_like(x)
            return ops.concat((zeros[:, :1], x, zeros[:, :2]), 1)

    assert exported(Zeros()) == ["Pad"]


class Formulas(nn.Cell):
    def construct(self, x):
        hard = ops.relu6(x + 3.0) / 6.0
        swish = x * (ops.relu6(x + 3) / 6)
        gelu = x * 0.5 * (1 + ops.erf(x / 1.4142135623730951))
        return ops.concat((hard, swish, gelu), 1)


def test_activations_that_are_spelt_out_are_recognised():
    found = exported(Formulas())
    assert set(found) <= {"HardSigmoid", "HardSwish", "Mul", "Gelu", "Concat"}
    assert len(found) <= 4 and "Gelu" in found and "HardSigmoid" in found


class Constants(nn.Cell):
    def __init__(self):
        super().__init__()
        self.table = Parameter(Tensor(np.arange(12.0).reshape(2, 6), ms.float32), name="table")

    def construct(self, x):
        rows = ops.gather(self.table, Tensor([1, 0, 1]), 0)
        return x + ops.expand_dims(ops.transpose(rows, (1, 0)).reshape(3, 6), 1)


def test_what_depends_on_constants_alone_is_computed():
    assert exported(Constants()) == ["Add"]


class Forth(nn.Cell):
    def construct(self, x):
        y = ops.transpose(x, (0, 2, 3, 1)).reshape(x.shape[0], -1, 3)
        y = ops.transpose(y.reshape(x.shape[0], 8, 6, 3), (0, 3, 1, 2))
        return ops.relu(y).reshape(x.shape)


def test_what_goes_forth_and_back_stays():
    assert exported(Forth()) == ["Relu"]


class Twice(nn.Cell):
    def construct(self, x):
        return ops.sin(x) * ops.tanh(ops.sin(x))


def test_what_is_computed_twice_is_computed_once():
    assert exported(Twice()) == ["Sin", "Tanh", "Mul"]


def test_a_ghost_module_is_two_convolutions_and_a_concat():
    module = GhostModule(3, 8, kernel_size=3)
    assert exported(module) == ["Conv", "Relu", "Conv", "Relu", "Concat"]


def test_dropout_is_gone():
    assert exported(nn.SequentialCell(nn.ReLU(), nn.Dropout(p=0.5), nn.Conv2d(3, 4, 1))) == [
        "Relu",
        "Conv",
    ]


class GhostBlocks(nn.Cell):
    def __init__(self):
        super().__init__()
        self.stem = GhostModule(3, 8)
        self.modules = nn.CellList([GhostModule(8, 8, act=False) for _ in range(2)])

    def construct(self, x):
        x = self.stem(x)
        for module in self.modules:
            x = ops.relu(module(x) + x)
        return x


def test_blocks_of_ghost_modules_add_their_halves():
    randomise(network := GhostBlocks())
    model = export_and_compare(network)
    producers = {node.output[0]: node.op_type for node in model.graph.node}
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert len(sums) == 4  # two halves in two blocks
    assert "Concat" not in {producers[name] for node in sums for name in node.input}
    assert kinds(model)[-1] == "Concat"  # the second block's ReLU is before it


class Joined(nn.Cell):
    """The sum of two concatenations, of parts as wide as said; ``kept``: others read both."""

    def __init__(self, one, other, kept=False):
        super().__init__()
        self.convs = nn.CellList([nn.Conv2d(3, width, 1) for width in (*one, *other)])
        self.kept = kept

    def construct(self, x):
        maps = [conv(x) for conv in self.convs]
        one, other = ops.concat(maps[:2], 1), ops.concat(maps[2:], 1)
        if self.kept:
            return (one + other) - ops.relu(one) - ops.relu(other)
        return one + other


def test_concatenations_are_added_part_by_part():
    assert exported(Joined((2, 4), (2, 4)))[-1] == "Concat"


def test_concatenations_of_other_parts_are_added_as_they_are():
    assert exported(Joined((2, 4), (4, 2)))[-1] == "Add"


def test_concatenations_that_others_need_are_added_as_they_are():
    assert exported(Joined((2, 4), (2, 4), kept=True)).count("Add") == 1
