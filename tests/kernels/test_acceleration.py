"""``accelerate`` and ``decelerate`` in code: every way to run a network, every order of calls."""

from __future__ import annotations

import copy
import ctypes
import threading

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

import mindcv_ghost
from mindcv_ghost.analysis.complexity import count_macs
from mindcv_ghost.analysis.redundancy.measure import feature_maps
from mindcv_ghost.convert.conversion import to_torch
from mindcv_ghost.errors import UserError
from mindcv_ghost.kernels import acceleration, custom_op
from mindcv_ghost.kernels.exchange import is_native
from mindcv_ghost.layers import (
    GhostModule,
    GlobalAvgPool,
    compute_in_parts,
    convert_sync_batch_norm,
)
from mindcv_ghost.models.ghost_resnet import GhostBottleneck
from mindcv_ghost.surgery import deploy, ghostify

from ..helpers.randomised import randomise

MODES = pytest.mark.parametrize(
    "mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE], ids=["graph", "pynative"]
)
IMAGES = np.random.default_rng(1).normal(size=(4, 3, 9, 9)).astype(np.float32)
LABELS = np.arange(4, dtype=np.int32) % 3


class Small(nn.Cell):
    """A convolution, BN, a block of Ghost modules, a shared convolution, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, pad_mode="pad", padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.block = GhostBottleneck(16, 4, 1, GhostModule)
        self.shared = nn.Conv2d(16, 16, 1)
        self.again = self.shared
        self.pool = GlobalAvgPool()
        self.classifier = nn.Dense(16, 3)

    def construct(self, x):
        x = self.block(ops.relu(self.bn(self.conv(x))))
        return self.classifier(self.pool(self.again(self.shared(x))))


@pytest.fixture(autouse=True)
def library(built, monkeypatch):
    """This tree's library."""
    monkeypatch.setattr(acceleration, "load", lambda threads: built)


@pytest.fixture
def built_operators(monkeypatch):
    """Counts how often MindSpore asks a native operator for its shape: in every compilation."""
    counts = [0]
    infer = custom_op._inferred

    def counting(shapes):
        check = infer(shapes)

        def count(*inputs):
            counts[0] += 1
            return check(*inputs)

        return count

    monkeypatch.setattr(custom_op, "_inferred", counting)

    def since_last() -> int:
        count, counts[0] = counts[0], 0
        return count

    return since_last


def small(accelerated: bool = False) -> nn.Cell:
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = Small()
    randomise(network)
    ms.set_context(mode=before)
    if accelerated:
        assert mindcv_ghost.accelerate(network).native_ghost_modules == 3
    return network


def weights(network: nn.Cell) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in network.get_parameters()}


def assert_same(got: dict, expected: dict, error: float = 1e-5) -> None:
    assert list(got) == list(expected)
    for name, values in expected.items():
        scale = max(np.abs(values).max(), 0.1)
        assert np.abs(got[name] - values).max() <= error * scale, name


def natives(network: nn.Cell) -> list[str]:
    return [type(cell).__name__ for _, cell in network.cells_and_names() if is_native(cell)]


def training_step(network: nn.Cell) -> nn.Cell:
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    loss = nn.CrossEntropyLoss()
    return nn.TrainOneStepCell(nn.WithLossCell(network, loss), optimizer).set_train()


def by_train_one_step(network: nn.Cell) -> dict[str, np.ndarray]:
    step = training_step(network)
    losses = [step(Tensor(IMAGES), Tensor(LABELS)).asnumpy() for _ in range(2)]
    return {"losses": np.array(losses), **weights(network)}


def by_value_and_grad(network: nn.Cell, jit: bool = False) -> dict[str, np.ndarray]:
    network.set_train()
    parameters = network.trainable_params()

    def forward(image, label):
        return ops.cross_entropy(network(image), label)

    compute = ms.value_and_grad(forward, None, parameters)
    loss, gradients = (ms.jit(compute) if jit else compute)(Tensor(IMAGES), Tensor(LABELS))
    named = {p.name: g.asnumpy() for p, g in zip(parameters, gradients)}
    return {"loss": loss.asnumpy(), **named}


def by_jit(network: nn.Cell) -> dict[str, np.ndarray]:
    return by_value_and_grad(network, jit=True)


def by_model(network: nn.Cell) -> dict[str, np.ndarray]:
    """``Model.train``, ``Model.eval`` and ``Model.predict``."""
    optimizer = nn.Momentum(network.trainable_params(), 0.1, 0.9)
    loss = nn.CrossEntropyLoss()
    model = ms.Model(network, loss, optimizer, metrics={"loss": nn.Loss()})
    images, labels = np.concatenate([IMAGES] * 2), np.concatenate([LABELS] * 2)
    columns = ["image", "label"]
    data = ms.dataset.NumpySlicesDataset((images, labels), columns, shuffle=False).batch(4)
    model.train(1, data, dataset_sink_mode=False)
    trained = weights(network)
    value = model.eval(data, dataset_sink_mode=False)["loss"]
    logits = model.predict(Tensor(IMAGES)).asnumpy()
    return {"loss": np.array(value), "logits": logits, **trained}


@pytest.mark.parametrize(
    ("mode", "run"),
    [
        *((ms.GRAPH_MODE, by_model), (ms.GRAPH_MODE, by_train_one_step)),
        *((ms.PYNATIVE_MODE, by_jit), (ms.PYNATIVE_MODE, by_value_and_grad)),
        pytest.param(ms.PYNATIVE_MODE, by_model, marks=pytest.mark.slow),
        pytest.param(ms.PYNATIVE_MODE, by_train_one_step, marks=pytest.mark.slow),
        pytest.param(ms.GRAPH_MODE, by_jit, marks=pytest.mark.slow),
        pytest.param(ms.GRAPH_MODE, by_value_and_grad, marks=pytest.mark.slow),
    ],
)
def test_training_in_code_gives_what_stock_operators_give(mode, run, built_operators):
    ms.set_context(mode=mode)
    stock = run(small())
    assert built_operators() == 0
    native = run(small(accelerated=True))
    assert built_operators() > 0
    assert_same(native, stock, 2e-5)  # after two steps


@MODES
def test_a_compiled_network_goes_on_with_the_operators_that_it_has_now(mode, built_operators):
    ms.set_context(mode=mode)
    network = small()
    step = training_step(network)
    image, label = Tensor(IMAGES), Tensor(LABELS)
    parameters = network.trainable_params()

    def forward(image, label):
        return ops.cross_entropy(network(image), label)

    jitted = ms.jit(ms.value_and_grad(forward, None, parameters))
    runs = (lambda: network(image), lambda: step(image, label), lambda: jitted(image, label))
    for run in runs:
        run()
    assert built_operators() == 0
    mindcv_ghost.accelerate(network)
    for run in runs:
        run()
        assert built_operators() > 0
    again = mindcv_ghost.accelerate(network)
    if mode == ms.GRAPH_MODE:
        for run in runs:
            run()
        assert built_operators() == 0  # nothing has changed, so nothing is compiled again
    assert again.exchanged == () and again.native_ghost_modules == 3
    mindcv_ghost.decelerate(network)
    built_operators()
    for run in runs:
        run()
    assert built_operators() == 0


@MODES
def test_a_decelerated_network_trains_on_as_one_that_was_never_accelerated(mode):
    ms.set_context(mode=mode)
    never, once = small(), small()
    classes = [(name, type(cell)) for name, cell in once.cells_and_names()]
    mindcv_ghost.accelerate(once)
    once.set_train(False)(Tensor(IMAGES))
    mindcv_ghost.decelerate(once)
    assert [(name, type(cell)) for name, cell in once.cells_and_names()] == classes
    # Equal runs in PyNative mode may differ in the last bit (docs/reliability.md).
    error = 0.0 if mode == ms.GRAPH_MODE else 1e-6
    assert_same(by_train_one_step(once), by_train_one_step(never), error)


def test_a_second_call_reports_the_same_and_changes_nothing():
    network = small()
    first = mindcv_ghost.accelerate(network)
    cells = list(network.cells_and_names())
    second = mindcv_ghost.accelerate(nn.WithLossCell(network, nn.CrossEntropyLoss()))
    assert str(second) == str(first) and first.convolutions == 5
    assert second.exchanged == () and len(first.exchanged) == len(natives(network))
    assert list(network.cells_and_names()) == cells


def test_a_network_whose_part_came_first_ends_as_if_all_of_it_had_come_at_once():
    at_once, in_parts = small(accelerated=True), small()
    mindcv_ghost.accelerate(in_parts.block.conv1.cheap.conv)
    mindcv_ghost.accelerate(in_parts.block.conv1)
    mindcv_ghost.accelerate(in_parts)
    assert natives(in_parts) == natives(at_once)
    assert_same(by_train_one_step(in_parts), by_train_one_step(at_once), error=0.0)


def test_a_part_that_is_decelerated_takes_along_the_block_that_needs_it():
    network, stock = small(accelerated=True), small()
    mindcv_ghost.decelerate(network.block.conv1)
    assert type(network.block) is GhostBottleneck and type(network.block.conv1) is GhostModule
    assert is_native(network.block.conv2) and is_native(network.conv)
    assert_same(by_train_one_step(network), by_train_one_step(stock), 2e-5)


def test_at_the_end_of_a_with_block_what_it_did_is_undone():
    network = small()
    with pytest.raises(KeyError), mindcv_ghost.accelerate(network) as report:
        assert len(natives(network)) == len(report.exchanged) > 0
        with mindcv_ghost.accelerate(network):  # has nothing to do, and to undo
            pass
        assert len(natives(network)) == len(report.exchanged)
        raise KeyError
    assert natives(network) == []


def test_models_and_copies_are_accelerated_and_decelerated_too():
    network = small()
    model = ms.Model(network, nn.CrossEntropyLoss(), nn.SGD(network.trainable_params()))
    assert mindcv_ghost.accelerate(model).native_ghost_modules == 3
    expected = network.set_train(False)(Tensor(IMAGES)).asnumpy()
    copied = copy.deepcopy(network)
    mindcv_ghost.decelerate(model)
    assert natives(network) == [] and natives(copied)
    np.testing.assert_array_equal(copied(Tensor(IMAGES)).asnumpy(), expected)
    mindcv_ghost.decelerate(copied)
    assert natives(copied) == []


@pytest.mark.parametrize("wrong", [None, Tensor(IMAGES), "ghost_resnet50", Small], ids=str)
def test_what_is_not_a_network_is_refused(wrong):
    for function in (mindcv_ghost.accelerate, mindcv_ghost.decelerate):
        with pytest.raises(UserError, match=r"give a network \(mindspore.nn.Cell\)"):
            function(wrong)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_threads_that_are_not_legal_are_refused(threads):
    with pytest.raises(UserError, match="threads is a whole number, at least 1"):
        mindcv_ghost.accelerate(small(), threads=threads)


def test_ranks_share_the_cores_of_their_machine(monkeypatch, built):
    given = []
    monkeypatch.setattr(acceleration, "load", lambda threads: given.append(threads) or built)
    monkeypatch.setattr(acceleration, "threads_for", lambda ranks: 100 // ranks)

    def threads(**environ: str) -> int:
        monkeypatch.setattr(acceleration.os, "environ", environ)
        mindcv_ghost.accelerate(nn.Conv2d(3, 4, 1))
        return given.pop()

    assert threads() == 100
    ranks = dict(OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="8")
    assert threads(**ranks, OMPI_COMM_WORLD_LOCAL_RANK="1", OMPI_COMM_WORLD_LOCAL_SIZE="4") == 25
    assert threads(OMPI_COMM_WORLD_RANK="1") == 100  # an incomplete environment
    assert threads(MS_ROLE="MS_SCHED") == 1
    mindcv_ghost.accelerate(nn.Conv2d(3, 4, 1), threads=3)
    assert given == [3]


def half_by_level(network: nn.Cell) -> nn.Cell:
    return ms.amp.auto_mixed_precision(network, "auto")


def half_by_o2(network: nn.Cell) -> nn.Cell:
    return ms.amp.auto_mixed_precision(network, "O2")


def half_by_cell(network: nn.Cell) -> nn.Cell:
    network.classifier.to_float(ms.float16)
    return network


def half_by_parameters(network: nn.Cell) -> nn.Cell:
    network.classifier.weight.set_dtype(ms.float16)
    return network


@pytest.mark.parametrize(
    ("halve", "reason"),
    [
        (half_by_level, "not amp level auto"),
        (half_by_o2, "not amp level O2"),
        (half_by_cell, "and classifier computes in half precision"),
        (half_by_parameters, "and classifier.weight is Float16"),
    ],
)
def test_a_network_in_half_precision_stays_on_stock_operators(halve, reason):
    network = halve(small())
    report = mindcv_ghost.accelerate(network)
    assert str(report) == f"MindSpore's operators: native operators are for float32, {reason}"
    assert natives(network) == []


@pytest.mark.parametrize("level", ["O2", "O3"])
def test_half_precision_after_acceleration_is_refused(level):
    with pytest.raises(UserError, match="call mindcv_ghost.decelerate"):
        ms.amp.auto_mixed_precision(small(accelerated=True), level)


@MODES
def test_inputs_in_half_precision_are_refused(mode):
    ms.set_context(mode=mode)
    with pytest.raises(UserError, match="computes in float32, and a layer received Float16"):
        small(accelerated=True)(Tensor(IMAGES.astype(np.float16))).asnumpy()


@MODES
@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_an_accelerated_network_is_not_exported(mode, file_format, tmp_path):
    ms.set_context(mode=mode)
    network = small(accelerated=True)
    target = dict(file_name=str(tmp_path / "net"), file_format=file_format)
    with pytest.raises(UserError, match="can't be exported.*mindcv_ghost.decelerate"):
        ms.export(network, Tensor(IMAGES), **target)
    assert list(tmp_path.iterdir()) == []
    mindcv_ghost.decelerate(network)
    ms.export(network, Tensor(IMAGES), **target)
    assert [path.name for path in tmp_path.iterdir()] == [f"net.{file_format.lower()}"]


def test_what_exchanges_cells_refuses_an_accelerated_network():
    network = small(accelerated=True)
    for change in (
        ghostify,
        compute_in_parts,
        lambda network: convert_sync_batch_norm(network, 2),
    ):
        with pytest.raises(UserError, match="this one is accelerated: call mindcv_ghost.decel"):
            change(network)
    mindcv_ghost.decelerate(network)
    _, report = ghostify(network, image_size=32, where=["conv"])
    assert "1 of " in report.summary()


def test_what_measures_a_network_sees_its_ordinary_cells():
    stock, network = small(), small(accelerated=True)
    before = natives(network)
    assert count_macs(network, IMAGES.shape) == count_macs(stock, IMAGES.shape)
    maps = [feature_maps(n, IMAGES, "block.conv1.primary.bn") for n in (network, stock)]
    np.testing.assert_array_equal(*maps)
    assert natives(network) == before


def test_deployed_and_converted_weights_do_not_depend_on_acceleration():
    network = mindcv_ghost.create_model("repghostnet_050", num_classes=3)
    randomise(network)
    named = weights(network)
    image = Tensor(np.ones((1, 3, 32, 32), np.float32))
    expected = weights(deploy(network))
    arrays, _ = to_torch(named, network, "repghostnet_050")
    mindcv_ghost.accelerate(network)
    assert natives(network)
    deployed = deploy(network)
    assert natives(deployed) == []
    assert_same(weights(deployed), expected, error=0.0)
    again, _ = to_torch(weights(network), network, "repghostnet_050")
    assert_same(again, arrays, error=0.0)
    logits = network.set_train(False)(image).asnumpy()
    assert_same({"": deployed(image).asnumpy()}, {"": logits}, 1e-4)


def test_checkpoints_have_the_same_names_before_and_after(tmp_path):
    network = small(accelerated=True)
    path = str(tmp_path / "net.ckpt")
    ms.save_checkpoint(network, path)
    other = Small()
    assert ms.load_checkpoint(path, other) and list(weights(other)) == list(weights(network))
    assert_same(weights(other), weights(network), error=0.0)
    mindcv_ghost.decelerate(network)
    assert ms.load_param_into_net(network, ms.load_checkpoint(path)) == ([], [])


def test_a_cell_with_a_hook_is_not_fused_into_another():
    network, ran = small(), []
    network.block.conv1.cheap.bn.register_forward_hook(lambda *_: ran.append(1))
    report = mindcv_ghost.accelerate(network)
    assert (report.native_ghost_modules, report.ghost_modules) == (2, 3)
    network(Tensor(IMAGES))
    assert ran == [1]


def test_a_hook_on_any_cell_runs_as_often_as_without_acceleration():
    network, ran = small(), []
    cells = [(name, cell) for name, cell in network.cells_and_names() if name]
    for name, cell in cells:
        cell.register_forward_hook(lambda *_, name=name: ran.append(name))
    network(Tensor(IMAGES))
    expected, ran[:] = sorted(ran), []
    assert "block.relu" in expected and "block.conv1.primary.act" in expected
    mindcv_ghost.accelerate(network)
    network(Tensor(IMAGES))
    assert sorted(ran) == expected


@pytest.mark.parametrize("name", ["block.conv3", "block.relu", "block.conv2.cheap.act"])
def test_a_hook_on_one_cell_runs(name):
    network, ran = small(), []
    dict(network.cells_and_names())[name].register_forward_hook(lambda *_: ran.append(name))
    assert mindcv_ghost.accelerate(network).native_ghost_modules >= 2
    network(Tensor(IMAGES))
    assert ran == [name]


def test_a_batch_without_images_is_refused():
    network = small(accelerated=True)
    with pytest.raises(UserError, match=r"a batch without images: .*\(0, 3, 9, 9\)"):
        network(Tensor(IMAGES[:0]))


def test_open_shapes_are_refused(graph_mode):
    network = small(accelerated=True)
    network.set_inputs(Tensor(shape=[None, 3, None, None], dtype=ms.float32))
    with pytest.raises(UserError, match="images of an open shape"):
        network(Tensor(IMAGES))


def test_the_number_of_threads_can_change_while_a_network_runs(built, graph_mode):
    network = mindcv_ghost.create_model("ghostnetv2_100", num_classes=3).set_train(False)
    mindcv_ghost.accelerate(network)
    image = Tensor(np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32))
    expected = network(image).asnumpy()
    handle = ctypes.CDLL(built.path)
    results, running = [], threading.Event()

    def run():
        for _ in range(200):
            results.append(network(image).asnumpy())
        running.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    number = 0
    while not running.is_set():
        number += 1
        handle.ghost_set_threads(ctypes.c_int(1 + number % 3))
    thread.join(60)
    handle.ghost_set_threads(ctypes.c_int(2))
    assert len(results) == 200 and number > 10
    for result in results:
        np.testing.assert_array_equal(result, expected)


class Alike(nn.Cell):
    """Layers whose inputs have the same shape, and their outputs different ones."""

    def __init__(self) -> None:
        super().__init__()
        self.cells_with_maps = nn.CellList(
            [nn.Conv2d(6, 6, 3, stride, pad_mode="pad", padding=1, group=6) for stride in (1, 2)]
            + [nn.Conv2d(6, 4, 3, stride, pad_mode="pad", padding=1) for stride in (1, 2)]
            + [GhostModule(6, channels, act=False) for channels in (7, 8)]
            + [GlobalAvgPool(keep_dims=keep_dims) for keep_dims in (True, False)]
        )

    def construct(self, x):
        outputs = ()
        for cell in self.cells_with_maps:
            outputs += (cell(x),)
        return outputs


@MODES
@pytest.mark.parametrize("training", [True, False])
def test_layers_with_equal_inputs_keep_outputs_of_their_own_shape(mode, training):
    image = Tensor(np.random.default_rng(3).normal(size=(2, 6, 8, 8)).astype(np.float32))
    outputs = []
    for accelerated in (False, True):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        network = Alike()
        randomise(network)
        if accelerated:
            assert len(mindcv_ghost.accelerate(network).exchanged) >= 8
        ms.set_context(mode=mode)
        outputs.append([y.asnumpy() for y in network.set_train(training)(image)])
    for native, stock in zip(*reversed(outputs)):
        assert native.shape == stock.shape
        assert_same({"": native}, {"": stock})
