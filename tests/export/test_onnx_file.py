"""Whole networks as .onnx files: what is in them, and what is refused."""

import subprocess
import sys

import mindcv
import mindspore as ms
import numpy as np
import onnx
import pytest
from mindspore import Parameter, Tensor, nn, ops

import mindcv_ghost
from mindcv_ghost.errors import UserError
from mindcv_ghost.export import FixedSize, build_onnx, onnx_file, to_onnx
from mindcv_ghost.inference.description import ModelDescription
from mindcv_ghost.layers.rep_conv import RepConv
from mindcv_ghost.surgery import deploy
from tests.export.running import assert_same, export_and_compare, kinds, random_images, run
from tests.helpers.randomised import randomise

SIDE = 32


def small_network():
    network = mindcv.create_model("ghost_resnet20_cifar", num_classes=10)
    randomise(network)
    return network.set_train(False)


@pytest.fixture(scope="module")
def network():
    return small_network()


@pytest.fixture(scope="module")
def model(network):
    return build_onnx(network, image_size=(SIDE, SIDE))


def test_batches_of_any_size_give_the_networks_logits(network, model):
    assert_same(model, network, (1, 3, SIDE, SIDE), (5, 3, SIDE, SIDE), rtol=1e-4, atol=1e-4)


def test_the_file_is_plain_onnx_of_opset_20(model):
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    assert model.ir_version == 9
    assert {node.domain for node in model.graph.node} == {""}
    onnx.checker.check_model(model, full_check=True)
    (image,), (logits,) = model.graph.input, model.graph.output
    dimensions = [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, dimensions) == ("image", ["batch", 3, SIDE, SIDE])
    dimensions = [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim]
    assert (logits.name, dimensions) == ("logits", ["batch", 10])


def test_nodes_and_weights_are_named_after_the_layers(network, model):
    names = {initializer.name for initializer in model.graph.initializer}
    weights = {n for n, p in network.parameters_dict().items() if n.endswith("weight")}
    assert weights - {"classifier.weight"} <= names | {"fc.weight"}
    assert "layer1/0/conv1/primary/conv/Conv" in {node.name for node in model.graph.node}
    concats = [node.name for node in model.graph.node if node.op_type == "Concat"]
    assert len(concats) == 19
    # MindSpore notes the first Ghost module, "conv1", for all of them.
    assert sum(name.startswith("layer3/") for name in concats) == 6


def test_nothing_is_left_to_fold(model):
    found = kinds(model)
    assert "BatchNormalization" not in found
    # 9 blocks; three of them add to a concatenation, and have two sums and two ReLUs.
    assert len(found) == 107
    assert (found.count("Add"), found.count("Relu")) == (9 + 3, 29 + 3)
    assert (found.count("Conv"), found.count("Pad"), found.count("Gemm")) == (38, 2, 1)


def test_a_network_in_training_mode_stays_as_it_is(model):
    network = small_network().set_train(True)
    network.layer1.set_train(False)  # a frozen part
    before = {n: p.asnumpy().copy() for n, p in network.parameters_dict().items()}
    modes = [cell.training for _, cell in network.cells_and_names()]
    level = ms.get_context("jit_syntax_level")
    exported = build_onnx(network, image_size=(SIDE, SIDE))
    assert exported.SerializeToString() == model.SerializeToString()
    assert [cell.training for _, cell in network.cells_and_names()] == modes
    assert ms.get_context("jit_syntax_level") == level
    for name, parameter in network.parameters_dict().items():
        np.testing.assert_array_equal(parameter.asnumpy(), before[name])


def test_an_accelerated_network_is_exported_and_stays_accelerated(model):
    network = small_network()
    report = mindcv_ghost.accelerate(network)
    if not report.threads:
        pytest.skip(str(report))
    images = ms.Tensor(random_images(2, 3, SIDE, SIDE))
    before = network(images).asnumpy()
    exported = build_onnx(network, image_size=(SIDE, SIDE))
    assert exported.SerializeToString() == model.SerializeToString()
    assert mindcv_ghost.accelerate(network).convolutions == report.convolutions
    np.testing.assert_array_equal(network(images).asnumpy(), before)


def test_re_parameterised_branches_are_one_convolution():
    network = RepConv(3, 3, 3, groups=3)
    randomise(network)
    model = export_and_compare(nn.SequentialCell(network, nn.ReLU()))
    assert kinds(model) == ["Conv", "Relu"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ghostnetv3_050", "repghostnet_050"])
def test_the_training_form_gives_the_file_of_the_deploy_form(name):
    network = mindcv.create_model(name)
    randomise(network)
    trained, deployed = (build_onnx(n, image_size=(64, 64)) for n in (network, deploy(network)))
    assert sorted(kinds(trained)) == sorted(kinds(deployed))
    images = random_images(2, 3, 64, 64)
    wanted = run(deployed, images)
    assert np.abs(run(trained, images) - wanted).max() < 1e-4 * np.abs(wanted).max()


class FullyConvolutional(nn.Cell):
    """Its attention is resized to the size of its features, as in GhostNetV2."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, "same")
        self.pool = nn.AvgPool2d(3, 3)
        self.classifier = nn.Dense(4, 5)

    def construct(self, x):
        x = self.conv(x)
        gate = ops.interpolate(self.pool(x), size=x.shape[2:], mode="nearest")
        tokens = ops.transpose((x * gate).reshape(x.shape[0], 4, -1), (0, 2, 1))
        return self.classifier(tokens.reshape(-1, 4)).reshape(x.shape[0], -1, 5).mean(1)


def test_a_network_takes_images_of_any_size_if_it_can():
    network = FullyConvolutional().set_train(False)
    model = build_onnx(network, image_size=(16, 24), dynamic=("batch", "size"))
    assert_same(model, network, (1, 3, 16, 24), (3, 3, 21, 17), (2, 3, 64, 33))


class RoundingBothWays(nn.Cell):
    """Halves its input by layers that round down and by layers that round up, twice."""

    def __init__(self):
        super().__init__()
        self.down = nn.AvgPool2d(2, 2)
        self.up = nn.SequentialCell([nn.Conv2d(3, 3, 3, 2, "same") for _ in range(2)])
        self.classifier = nn.Dense(3, 5)

    def construct(self, x):
        half = self.up[0](x)
        context = self.down(half)
        x = self.up[1](half)
        x = x * ops.interpolate(context, size=x.shape[2:], mode="nearest")
        return self.classifier(x.mean((2, 3)))


@pytest.fixture(scope="module")
def rounding_both_ways():
    network = RoundingBothWays().set_train(False)
    return network, build_onnx(network, image_size=(16, 16), dynamic=("batch", "size"))


@pytest.mark.parametrize("side", range(16, 24))
def test_sizes_that_are_rounded_up_and_down_are_not_taken_for_each_other(rounding_both_ways, side):
    network, model = rounding_both_ways
    assert_same(model, network, (1, 3, side, 16), (1, 3, 16, side))


@pytest.mark.slow
def test_ghostnetv2_takes_images_of_another_height_and_width():
    network = mindcv.create_model("ghostnetv2_100").set_train(False)
    model = build_onnx(network, image_size=(224, 224), dynamic=("batch", "size"))
    # Its initial weights amplify rounding: 1e-7 on the pixels changes MindSpore's own logits by a
    # third. tools/measure/export_families.py compares the numbers, with recomputed BN statistics.
    assert run(model, random_images(1, 3, 320, 256)).shape == (1, 1000)


class Positions(nn.Cell):
    def __init__(self):
        super().__init__()
        self.positions = Parameter(Tensor(np.ones((1, 3, 8, 6)), ms.float32), name="positions")

    def construct(self, x):
        return x + self.positions


def test_a_network_for_images_of_one_size_says_so():
    export_and_compare(Positions())
    with pytest.raises(FixedSize, match=r"Positions takes images of one size.*--dynamic batch"):
        build_onnx(Positions(), image_size=(8, 6), dynamic=("batch", "size"))


class TableForEachImage(nn.Cell):
    def construct(self, x):
        numbers = ops.arange(x.shape[0]).reshape(-1, 1, 1, 1)
        return x + numbers.astype(ms.float32)


def test_a_network_for_batches_of_one_size_says_so():
    with pytest.raises(FixedSize, match=r"takes batches of one size .*dynamic=\(\), for one image"):
        build_onnx(TableForEachImage(), image_size=(8, 6))
    assert kinds(build_onnx(TableForEachImage(), image_size=(8, 6), dynamic=()))


def test_a_fixed_batch_is_one_image():
    model = build_onnx(nn.ReLU(), image_size=(8, 6), dynamic=())
    (image,) = model.graph.input
    assert [d.dim_value for d in image.type.tensor_type.shape.dim] == [1, 3, 8, 6]


def test_what_cant_vary_is_refused():
    with pytest.raises(UserError, match=r"dynamic is any of batch, size; not channels"):
        build_onnx(nn.ReLU(), dynamic=("batch", "channels"))


def test_float16_halves_the_file_and_keeps_input_and_output(model):
    half = build_onnx(small_network(), image_size=(SIDE, SIDE), fp16=True)
    floats = [i for i in half.graph.initializer if i.data_type == onnx.TensorProto.FLOAT]
    assert not floats
    assert half.ByteSize() < 0.6 * model.ByteSize()
    images = random_images(2, 3, SIDE, SIDE)
    single, given = run(model, images), run(half, images)
    assert given.dtype == np.float32
    assert 0 < np.abs(given - single).max() / np.abs(single).max() < 1e-2


def test_grey_images_are_exported():
    export_and_compare(nn.Conv2d(1, 4, 3), channels=1)


class Several(nn.Cell):
    def construct(self, x):
        return x, x + 1


def test_a_network_with_several_outputs_is_refused():
    with pytest.raises(UserError, match=r"Several returns 2 tensors.*wrap it in a cell"):
        build_onnx(Several())


def test_a_layer_in_float16_is_exported_with_its_casts():
    network = nn.SequentialCell(nn.Conv2d(3, 4, 3).to_float(ms.float16), nn.ReLU())
    found = kinds(build_onnx(network, image_size=(8, 6)))
    assert found[0] == "Cast" and "Conv" in found


def test_the_file_has_its_description(tmp_path):
    path = tmp_path / "relu.onnx"
    description = ModelDescription(model="relu", num_classes=10, class_names=("a", "b"))
    to_onnx(nn.ReLU(), path, image_size=(8, 6), description=description)
    metadata = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert ModelDescription.from_metadata(metadata, str(path)) == description


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_text("old")
    with pytest.raises(UserError):
        to_onnx(Several(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["network.onnx"]
    assert path.read_text() == "old"


def test_a_folder_that_isnt_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"can't be written: No such file or directory"):
        to_onnx(nn.ReLU(), tmp_path / "missing" / "network.onnx", image_size=(8, 6))


def test_a_file_of_more_than_2_gb_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_file, "_MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"one file holds 2 GB; fp16=True"):
        build_onnx(nn.Dense(6, 100), image_size=(8, 6))


def test_without_onnx_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "import mindcv_ghost.errors\n"
        "try:\n    from mindcv_ghost.export import to_onnx\n"
        "except mindcv_ghost.errors.UserError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mindcv-ghost[export]'" in done.stdout
