"""Ghost-ResNet against a NumPy version, its options, and its exported files."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.layers import ConvNormAct, GhostModule, StemMaxPool
from mindcv_ghost.models.ghost_resnet import GhostResNet

from ..helpers.numpy_reference import batch_norm, conv2d, ghost_resnet, max_pool, relu
from ..helpers.randomised import randomise


def images(side: tuple[int, int] = (64, 64), channels: int = 3, count: int = 2) -> np.ndarray:
    shape = (count, channels, *side)
    return np.random.RandomState(1).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("side", [(32, 32), (33, 47)], ids=str)
def test_stem_is_pytorchs_at_even_and_odd_sizes(side):
    network = mindcv.create_model("ghost_resnet18", num_classes=4).set_train(False)
    parameters = randomise(network)
    x = images(side)
    got = network.max_pool(network.relu(network.bn1(network.conv1(Tensor(x))))).asnumpy()
    expected = conv2d(x.astype(np.float64), parameters["conv1.weight"], stride=2)
    expected = max_pool(relu(batch_norm(expected, parameters, "bn1", training=False)))
    assert got.shape == (2, 64, -(-side[0] // 4), -(-side[1] // 4))
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "depths", "settings"),
    [
        ("ghost_resnet18", (2, 2, 2, 2), dict(ratio=3, cheap_kernel_size=5)),
        ("ghost_resnet18", (2, 2, 2, 2), dict(ratio=1)),
        ("ghost_resnet50", (3, 4, 6, 3), dict()),
    ],
    ids=str,
)
def test_network_equals_a_numpy_version_built_from_parameter_names(name, depths, settings):
    network = mindcv.create_model(name, num_classes=7, in_channels=2, **settings)
    parameters = randomise(network)
    x = images((40, 33), channels=2)
    got = network.set_train(False)(Tensor(x)).asnumpy()
    expected = ghost_resnet(x.astype(np.float64), parameters, depths, name == "ghost_resnet50")
    assert got.shape == (2, 7)
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())


def test_every_convolution_except_the_stem_belongs_to_a_ghost_module():
    network = mindcv.create_model("ghost_resnet50")
    cells = dict(network.cells_and_names())
    plain = {name for name, cell in cells.items() if isinstance(cell, nn.Conv2d)}
    modules = {name for name, cell in cells.items() if isinstance(cell, GhostModule)}
    ghosted = {f"{name}.{branch}.conv" for name in modules for branch in ("primary", "cheap")}
    assert plain == ghosted | {"conv1"}
    # 16 blocks of three, and a shortcut in each of the four stages.
    assert len(modules) == 16 * 3 + 4
    linear = {
        name.rsplit(".", 1)[-1]
        for name, cell in cells.items()
        if isinstance(cell, GhostModule) and cell.primary.act is None
    }
    assert linear == {"conv3", "downsample"}


def test_any_image_size_works_with_a_batch_of_one():
    network = mindcv.create_model("ghost_resnet18", num_classes=4).set_train(False)
    for side in ((32, 32), (96, 64), (225, 31)):
        assert network(Tensor(images(side, count=1))).shape == (1, 4)


def test_network_is_forward_features_then_forward_head():
    network = mindcv.create_model("ghost_resnet18", num_classes=4).set_train(False)
    x = Tensor(images())
    features = network.forward_features(x)
    assert features.shape == (2, network.num_features, 2, 2)
    np.testing.assert_array_equal(network.forward_head(features).asnumpy(), network(x).asnumpy())


def test_reset_classifier_changes_only_the_classifier():
    network = mindcv.create_model("ghost_resnet18", num_classes=4).set_train(False)
    names = list(network.parameters_dict())
    before = network.forward_features(Tensor(images())).asnumpy()
    network.reset_classifier(9)
    assert list(network.parameters_dict()) == names
    assert network(Tensor(images())).shape == (2, 9)
    np.testing.assert_array_equal(network.forward_features(Tensor(images())).asnumpy(), before)
    network.reset_classifier(0)
    assert network(Tensor(images())).shape == (2, 512)
    assert "classifier.weight" not in network.parameters_dict()


def test_dropout_acts_only_in_training():
    network = mindcv.create_model("ghost_resnet18", num_classes=4, drop_rate=0.5)
    assert isinstance(network.dropout, nn.Dropout)
    features = Tensor(np.ones((2, 512, 1, 1), np.float32))
    evaluated = [network.set_train(False).forward_head(features).asnumpy() for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)
    trained = [network.set_train(True).forward_head(features).asnumpy() for _ in range(2)]
    assert np.abs(trained[0] - trained[1]).max() > 1e-3


@pytest.mark.parametrize("drop_rate", [1.0, -0.1])
def test_impossible_drop_rate_is_refused(drop_rate):
    with pytest.raises(ValueError, match=f"drop_rate is {drop_rate}, .*0 <= drop_rate < 1"):
        mindcv.create_model("ghost_resnet18", drop_rate=drop_rate)


def test_impossible_ratio_is_refused():
    with pytest.raises(ValueError, match="ratio is 65, but a Ghost module of 64 maps"):
        mindcv.create_model("ghost_resnet18", ratio=65)


def test_unknown_option_is_refused():
    with pytest.raises(TypeError, match="ratoi"):
        mindcv.create_model("ghost_resnet18", ratoi=4)


def test_pretrained_without_published_weights_names_the_alternatives():
    with pytest.raises(CheckpointError, match="ghost_resnet50 has no published weights") as error:
        mindcv.create_model("ghost_resnet50", pretrained=True)
    assert "mindcv-ghost train" in str(error.value) and "convert" in str(error.value)


def test_checkpoint_path_loads_the_weights(tmp_path):
    network = mindcv.create_model("ghost_resnet18", num_classes=4).set_train(False)
    randomise(network)
    ms.save_checkpoint(network, str(tmp_path / "net.ckpt"))
    again = mindcv.create_model(
        "ghost_resnet18", num_classes=4, checkpoint_path=str(tmp_path / "net.ckpt")
    ).set_train(False)
    x = Tensor(images())
    np.testing.assert_array_equal(again(x).asnumpy(), network(x).asnumpy())


@pytest.mark.parametrize("name", ["ghost_resnet18", "ghost_resnet50"])
def test_with_zero_init_last_every_block_starts_as_its_shortcut(name):
    network = mindcv.create_model(name, num_classes=4, zero_init_last=True)
    last = {"ghost_resnet18": ".conv2.", "ghost_resnet50": ".conv3."}[name]
    for parameter in network.get_parameters():
        if parameter.name.endswith("gamma"):
            assert (parameter.asnumpy() == (0 if last in parameter.name else 1)).all()
    stage = network.layer2.set_train(True)
    channels = 64 if name == "ghost_resnet18" else 256
    x = Tensor(np.abs(np.random.RandomState(0).standard_normal((2, channels, 8, 8))), ms.float32)
    shortcut = np.maximum(stage[0].downsample(x).asnumpy(), 0)
    assert shortcut.std() > 0.1
    np.testing.assert_array_equal(stage(x).asnumpy(), shortcut)


def test_the_seed_determines_the_initial_weights():
    def weights(seed: int) -> np.ndarray:
        ms.set_seed(seed)
        network = mindcv.create_model("ghost_resnet18", num_classes=4)
        return np.concatenate([p.asnumpy().ravel() for p in network.get_parameters()])

    first = weights(5)
    np.testing.assert_array_equal(first, weights(5))
    assert np.abs(first - weights(6)).max() > 0.1


def test_initial_deviation_is_kaimings_with_the_fan_out_of_one_group():
    network = mindcv.create_model("ghost_resnet18")
    parameters = network.parameters_dict()

    def deviation(name: str) -> float:
        return parameters[name].asnumpy().std()

    assert deviation("conv1.weight") == pytest.approx(np.sqrt(2 / (64 * 49)), rel=0.05)
    assert deviation("layer4.1.conv1.cheap.conv.weight") == pytest.approx(np.sqrt(2 / 9), rel=0.1)
    primary = deviation("layer4.1.conv1.primary.conv.weight")
    assert primary == pytest.approx(np.sqrt(2 / (256 * 9)), rel=0.05)
    assert deviation("classifier.bias") == 0.0
    assert {type(cell) for cell in (network.max_pool,)} == {StemMaxPool}
    for _, cell in network.cells_and_names():
        if isinstance(cell, ConvNormAct):
            assert (cell.bn.gamma.asnumpy() == 1).all() and (cell.bn.beta.asnumpy() == 0).all()


@pytest.fixture(scope="module")
def exported() -> tuple[GhostResNet, np.ndarray, np.ndarray]:
    """A network with cropped maps (ratio 3), its input, and its output in graph mode."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = mindcv.create_model("ghost_resnet18", num_classes=4, ratio=3).set_train(False)
    randomise(network)
    x = images((48, 40))
    return network, x, network(Tensor(x)).asnumpy()


def test_reloaded_mindir_computes_the_same(exported, tmp_path):
    network, x, expected = exported
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.export(network, Tensor(x), file_name=str(tmp_path / "net"), file_format="MINDIR")
    again = nn.GraphCell(ms.load(str(tmp_path / "net.mindir")))
    np.testing.assert_array_equal(again(Tensor(x)).asnumpy(), expected)


def test_onnx_computes_the_same_in_onnxruntime(exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network, x, expected = exported
    ms.set_context(mode=ms.GRAPH_MODE)
    ms.export(network, Tensor(x), file_name=str(tmp_path / "net"), file_format="ONNX")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    (got,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
