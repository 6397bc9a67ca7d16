"""Synchronised batch norm: two ranks compute what one rank with both batches computes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindcv_ghost.layers import SyncBatchNorm2d, convert_sync_batch_norm

from ..helpers.numpy_reference import batch_norm as numpy_batch_norm
from ..helpers.randomised import randomise
from .sync_batch_norm_ranks import MODES, train_step

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("sync_batch_norm_ranks.py")


def reduce_alone(x):
    """AllReduce in a world of one rank."""
    return x * 1.0


@pytest.fixture
def alone(monkeypatch):
    """Let the layer be made without a cluster."""
    monkeypatch.setattr(ops, "AllReduce", lambda *_: reduce_alone)


@pytest.fixture(params=list(MODES))
def mode(request):
    ms.set_context(mode=MODES[request.param])
    return request.param


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """The folder where both ranks left what they computed."""
    folder = tmp_path_factory.mktemp("ranks")
    environ = dict(os.environ, PYTHONPATH=f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    command = ["msrun", "--worker_num", "2", "--local_worker_num", "2", "--join", "True"]
    command += ["--master_port", str(free_port()), "--log_dir", str(folder / "log")]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder)],
        env=environ,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    logs = "".join(log.read_text() for log in folder.glob("log/worker*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    return folder


def test_two_ranks_of_uneven_batches_equal_one_rank_with_both(mode, two_ranks):
    expected = train_step(rank=0, size=1)
    for rank in range(2):
        got = np.load(two_ranks / f"{mode}-{rank}.npz")
        assert set(got) == set(expected)
        for name, value in expected.items():
            largest = np.abs(value).max()
            difference = np.abs(got[name] - value).max()
            # Offsets that a later batch norm takes away have gradients of rounding noise alone.
            assert difference <= 2e-5 * max(largest, 1.0), name


def test_layer_is_batch_norm_itself_where_there_is_one_rank(alone, mode):
    random = np.random.RandomState(0)
    x = (3.0 * random.standard_normal((4, 5, 6, 7)) + 2.0).astype(np.float32)
    weights = Tensor(random.standard_normal(x.shape).astype(np.float32))
    found = []
    for convert in (False, True):
        layer = nn.BatchNorm2d(5, eps=1e-3, momentum=0.7)
        randomise(layer)
        layer = (SyncBatchNorm2d(layer) if convert else layer).set_train()
        weighted = Weighted(layer)
        y, gradients = ms.value_and_grad(weighted, 0, layer.trainable_params())(Tensor(x), weights)
        moving = [layer.moving_mean, layer.moving_variance]
        found.append([g.asnumpy() for g in (y, gradients[0], *gradients[1], *moving)])
    for stock, ours in zip(*found):
        np.testing.assert_allclose(ours, stock, rtol=2e-5, atol=2e-5 * np.abs(stock).max())


class Weighted(nn.Cell):
    def __init__(self, layer: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.layer = layer

    def construct(self, x, weights):
        return (self.layer(x) * weights).sum()


def test_a_constant_channel_far_from_zero_stays_finite(alone):
    layer = SyncBatchNorm2d(nn.BatchNorm2d(2)).set_train()
    x = np.stack([np.full((4, 5, 5), 1234.567), np.linspace(0, 1, 100).reshape(4, 5, 5)], axis=1)
    y = layer(Tensor(x.astype(np.float32))).asnumpy()
    assert np.isfinite(y).all()
    np.testing.assert_allclose(y[:, 1].std(), 1.0, atol=1e-3)


def test_half_precision_comes_back_as_half_but_is_summed_in_full(alone):
    network = nn.SequentialCell(nn.BatchNorm2d(3))
    parameters = randomise(network)
    # Sums over 64 x 16 x 16 values of about 20 exceed what float16 can hold (65,504).
    x = (np.random.RandomState(0).standard_normal((64, 3, 16, 16)) + 20.0).astype(np.float16)
    y = convert_sync_batch_norm(network, size=2).set_train()(Tensor(x))
    assert y.dtype == ms.float16
    expected = numpy_batch_norm(x.astype(np.float64), parameters, "0", training=True)
    np.testing.assert_allclose(y.asnumpy(), expected, atol=5e-3)


def test_mixed_precision_leaves_the_statistics_in_full(alone, mode):
    x = np.random.RandomState(0).standard_normal((8, 3, 12, 12)) * 2.0 + 0.3
    network = convert_sync_batch_norm(nn.SequentialCell(nn.BatchNorm2d(3)), size=2).set_train()
    network.to_float(ms.float16)
    y = network(Tensor(x.astype(np.float32))).asnumpy()
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1.0, atol=2e-3)
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3), ddof=1)
    np.testing.assert_allclose(network[0].moving_mean.asnumpy(), 0.1 * mean, atol=2e-4)
    expected = 0.9 + 0.1 * variance
    np.testing.assert_allclose(network[0].moving_variance.asnumpy(), expected, atol=2e-4)


@pytest.mark.parametrize("name", ["ghost_resnet18", "resnet18", "mobilenet_v3_small_100"])
def test_any_networks_batch_norms_are_replaced_and_keep_their_parameters(alone, name):
    network = mindcv.create_model(name, num_classes=3)
    before = {p.name: id(p) for p in network.get_parameters()}
    order = [p.name for p in network.trainable_params()]
    count = sum(isinstance(cell, nn.BatchNorm2d) for _, cell in network.cells_and_names())
    assert convert_sync_batch_norm(network, size=2) is network
    cells = [cell for _, cell in network.cells_and_names() if isinstance(cell, nn.BatchNorm2d)]
    assert len(cells) == count > 0
    assert {type(cell) for cell in cells} == {SyncBatchNorm2d}
    assert {p.name: id(p) for p in network.get_parameters()} == before
    assert [p.name for p in network.trainable_params()] == order
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.SequentialCell):
            assert len(cell.cell_list) == len(cell._cells)
            assert all(a is b for a, b in zip(cell.cell_list, cell._cells.values()))


def test_a_cell_that_is_used_twice_keeps_both_places(alone):
    conv, norm, relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
    network = nn.SequentialCell(conv, norm, relu, conv, norm, relu)
    places = convert_sync_batch_norm(network, size=2).cell_list
    assert [type(cell) for cell in places] == 2 * [nn.Conv2d, SyncBatchNorm2d, nn.ReLU]
    assert places[1] is places[4] and places[0] is conv is places[3]
    x = Tensor(np.full((2, 3, 4, 4), -1.0, np.float32))
    assert network(x).asnumpy().min() == 0.0  # what the last ReLU leaves


def test_converting_twice_changes_nothing_more(alone):
    network = convert_sync_batch_norm(nn.SequentialCell(nn.BatchNorm2d(3)), size=2)
    layer = network[0]
    assert convert_sync_batch_norm(network, size=2)[0] is layer
    assert convert_sync_batch_norm(layer, size=2) is layer


def test_one_rank_needs_no_synchronisation():
    network = nn.SequentialCell(nn.BatchNorm2d(3))
    assert type(convert_sync_batch_norm(network, size=1)[0]) is nn.BatchNorm2d


class OwnIdea(nn.BatchNorm2d):
    """Does something else."""


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(3), OwnIdea(3), nn.BatchNorm2d(3, use_batch_statistics=True)],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_that_cant_be_synchronised_is_named(layer):
    with pytest.raises(ValueError, match=f"^1.0 is a {type(layer).__name__} .*only a plain"):
        convert_sync_batch_norm(nn.SequentialCell(nn.ReLU(), nn.SequentialCell(layer)), size=2)
