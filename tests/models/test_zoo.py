"""What every model of this package keeps, whichever it is: it is enough to register one."""

from __future__ import annotations

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindcv.models import registry
from mindspore import Tensor, nn, ops

import mindcv_ghost  # noqa: F401
from mindcv_ghost.errors import UserError

SIDE = 64
# One of each kind of block stands for the others in `make test`; `make test-zoo` takes them all.
QUICK = (
    "g_ghost_regnetx_002",
    "ghost_resnet18",
    "ghost_resnet20_cifar",
    "ghost_resnet50",
    "ghost_vgg16_cifar",
    "ghostnetv2_100",
    "ghostnetv3_050",
    "repghostnet_050",
)
# Of these, what takes longest to make and compile. `make test` has branches in
# layers/test_rep_conv.py, too, and all sizes in analysis/test_complexity.py.
LONG = ("ghostnetv3_050", "ghost_resnet50", "ghostnetv2_100", "repghostnet_050")


def entry_module(name: str) -> str:
    return registry.model_entrypoint(name).__module__


OURS = [name for name in mindcv.list_models() if entry_module(name).startswith("mindcv_ghost.")]
# The paper's GhostNet is MindCV's own.
ZOO = [*OURS, "ghostnet_050", "ghostnet_100", "ghostnet_130"]


def each(names: list[str], later: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """Parametrise by model, those beyond the quick ones, and ``later``, under the mark ``zoo``."""
    quick = set(QUICK) - set(later)
    marks = {name: () if name in quick else (pytest.mark.zoo,) for name in names}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=marks[n]) for n in names])


@pytest.fixture(autouse=True)
def pynative():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    ms.set_seed(0)  # the same initial weights in every run
    yield
    ms.set_context(mode=before)


def images(channels: int = 3, count: int = 2) -> Tensor:
    random = np.random.RandomState(0)
    return Tensor(random.standard_normal((count, channels, SIDE, SIDE)).astype(np.float32))


class Loss(nn.Cell):
    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = nn.CrossEntropyLoss()

    def construct(self, x, labels):
        return self.loss(self.network(x), labels)


def test_the_zoo_is_what_it_says():
    assert mindcv.list_models("ghost_resnet*") == sorted(
        [f"ghost_resnet{depth}" for depth in (18, 34, 50, 101, 152)]
        + [f"ghost_resnet50_s{ratio}" for ratio in (2, 3, 4, 5)]
        + [f"ghost_resnet{depth}_cifar" for depth in (20, 32, 44, 56, 110)]
    )
    sizes = (2, 4, 6, 8, 16, 32, 40, 64, 80, 120, 160, 320)
    assert mindcv.list_models("g_ghost_regnetx*") == [f"g_ghost_regnetx_{n:03d}" for n in sizes]
    assert mindcv.list_models("ghostnetv2*") == [f"ghostnetv2_{n}" for n in (100, 130, 160)]
    assert mindcv.list_models("ghostnetv3*") == [f"ghostnetv3_{n:03d}" for n in (50, 100, 130, 160)]
    widths = (50, 58, 80, 100, 111, 130, 150, 200)
    assert mindcv.list_models("repghost*") == [f"repghostnet_{width:03d}" for width in widths]
    assert set(QUICK) <= set(OURS)


def test_no_family_file_has_a_name_that_mindcv_uses():
    # MindCV keys modules by the last part of their path.
    ours = {entry_module(name).rsplit(".", 1)[-1] for name in OURS}
    theirs = {entry_module(n).rsplit(".", 1)[-1] for n in mindcv.list_models() if n not in OURS}
    assert not ours & theirs


@each(OURS, later=LONG)
def test_entry_point_is_named_and_configured_as_mindcv_expects(name):
    entry_point = registry.model_entrypoint(name)
    assert entry_point.__name__ == name and entry_point.__doc__
    config = registry.get_pretrained_cfg(name)
    assert {"url", "num_classes", "first_conv", "classifier"} <= set(config)
    names = [p.name for p in mindcv.create_model(name, num_classes=3).get_parameters()]
    assert f"{config['first_conv']}.weight" in names
    assert f"{config['classifier']}.weight" in names
    assert len(set(names)) == len(names)
    # The same every time: a checkpoint of today fits the network of tomorrow.
    assert [p.name for p in mindcv.create_model(name).get_parameters()] == names


@pytest.mark.parametrize("name", OURS)
def test_pretrained_is_refused_where_no_weights_are_published(name):
    if registry.get_pretrained_cfg(name)["url"]:
        pytest.skip("has published weights")
    with pytest.raises(UserError, match=f"{name} has no published weights"):
        mindcv.create_model(name, pretrained=True)


@each(ZOO, later=LONG)
def test_every_parameter_has_a_gradient_and_a_step_along_it_lowers_the_loss(name):
    network = mindcv.create_model(name, num_classes=5, in_channels=1, drop_rate=0.0).set_train()
    loss_of = Loss(network)
    parameters = network.trainable_params()
    batch = (images(channels=1, count=4), Tensor(np.array([1, 4, 0, 2], np.int32)))
    loss, gradients = ms.value_and_grad(loss_of, None, parameters)(*batch)
    assert np.isfinite(loss.asnumpy())
    assert len(gradients) == len(parameters)
    arrays = [gradient.asnumpy() for gradient in gradients]
    for parameter, values in zip(parameters, arrays):
        assert np.isfinite(values).all() and np.abs(values).max() > 0, parameter.name
    # Fractions of the way to nought, were the loss a plane. Large steps leave the plane, and small
    # ones drown in rounding: a hundredth's gain is known only by half in ghost_resnet152.
    length = sum(float(np.square(values, dtype=np.float64).sum()) for values in arrays)
    start, taken = float(loss.asnumpy()), 0.0
    gained = []
    for fraction in (0.1, 0.03, 0.01, 0.003, 0.001):
        step = fraction * start / length
        for parameter, gradient in zip(parameters, gradients):
            ops.assign_sub(parameter, gradient * (step - taken))
        taken = step
        gained.append((start - float(loss_of(*batch).asnumpy())) / (fraction * start))
    assert max(gained) > 0.25


@each(OURS, later=LONG)
def test_features_come_at_the_strides_that_the_network_names(name):
    info = mindcv.create_model(name).feature_info
    network = mindcv.create_model(name, features_only=True).set_train(False)
    features = network(images(count=1))
    assert [f.shape[1:] for f in features] == [
        (stage["chs"], SIDE // stage["reduction"], SIDE // stage["reduction"]) for stage in info
    ]
    assert network.out_channels == [stage["chs"] for stage in info]
    if "input_size" not in registry.get_pretrained_cfg(name):  # made for ImageNet
        assert [stage["reduction"] for stage in info] == [2, 4, 8, 16, 32]


# In the others more follows behind the last stage, before the head.
@each([n for n in OURS if n.startswith(("ghost_resnet", "g_ghost"))])
def test_last_chosen_feature_is_what_the_whole_network_passes_on(name):
    whole = mindcv.create_model(name).set_train(False)
    last = len(whole.feature_info) - 1
    network = mindcv.create_model(name, features_only=True, out_indices=[1, last])
    values = {p.name: p for p in whole.get_parameters()}
    for parameter in network.set_train(False).get_parameters():
        parameter.set_data(values[parameter.name])
    first, final = network(images())
    assert first.shape[1] == whole.feature_info[1]["chs"]
    np.testing.assert_array_equal(final.asnumpy(), whole.forward_features(images()).asnumpy())


@each(OURS, later=LONG)
def test_reset_head_has_the_new_classes_and_none_leaves_the_features(name):
    network = mindcv.create_model(name, num_classes=3).set_train(False)
    assert network(images()).shape == (2, 3)
    network.reset_classifier(7)
    assert network(images()).shape == (2, 7) and network.num_classes == 7
    network.reset_classifier(0)
    assert network(images()).shape == (2, network.num_features)


# Attention takes long to compile; kernels/test_layers.py has its graph, too.
@each(ZOO, later=(*LONG, "ghost_vgg16_cifar"))
def test_graph_mode_computes_what_pynative_does(name):
    network = mindcv.create_model(name, num_classes=5).set_train(False)
    expected = network(images()).asnumpy()
    ms.set_context(mode=ms.GRAPH_MODE)
    got = network(images()).asnumpy()
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
