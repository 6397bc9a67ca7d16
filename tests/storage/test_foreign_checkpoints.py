"""What trainers of MindSpore and MindCV save is loaded to the last bit, whatever they call it."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindcv.optim import create_optimizer
from mindcv.utils.checkpoint_manager import CheckpointManager
from mindcv.utils.train_step import TrainStep
from mindspore import Tensor, nn, ops
from mindspore.train.serialization import _wait_async_thread_save_ckpt

from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.storage.checkpoint import load_weights
from mindcv_ghost.storage.weights_file import is_pickled, read_weights_file

# This package makes its optimizers with the same function.
MINDCVS = ["sgd", "momentum", "nesterov", "adam", "adamw", "lion", "rmsprop", "adagrad", "nadam"]
MINDCVS += ["adan", "lamb"]
MINDSPORES = {
    "adadelta": lambda p: nn.Adadelta(p),
    "adafactor": lambda p: nn.AdaFactor(p),
    "adamax": lambda p: nn.AdaMax(p),
    "adam, amsgrad": lambda p: nn.Adam(p, use_amsgrad=True),
    "asgd": lambda p: nn.ASGD(p),
    "ftrl": lambda p: nn.FTRL(p),
    "lazy adam": lambda p: nn.LazyAdam(p),
    "rmsprop, centered": lambda p: nn.RMSProp(p, centered=True),
    "rprop": lambda p: nn.Rprop(p),
}


class Net(nn.Cell):
    """A convolution, BN and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.bn1 = nn.BatchNorm2d(4)
        self.classifier = nn.Dense(4, 2)

    def construct(self, x):
        return self.classifier(ops.relu(self.bn1(self.conv1(x))).mean((2, 3)))


class Wrapped(nn.Cell):
    """A user's cell around network and loss: it renames the network's parameters."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.loss = nn.MSELoss()

    def construct(self, x, y):
        return self.loss(self.network(x), y)


class UsersTrainCell(nn.Cell):
    """A user's cell with an optimizer: it renames what the optimizer trains."""

    def __init__(self, network: nn.Cell, optimizer: nn.Cell) -> None:
        super().__init__()
        self.network = network
        self.optimizer = optimizer


def train_one_step(cell: nn.Cell) -> None:
    draw = np.random.default_rng(0)
    images = Tensor(draw.normal(size=(4, 3, 8, 8)).astype(np.float32))
    cell.set_train()(images, Tensor(draw.normal(size=(4, 2)).astype(np.float32)))


def save_as_mindcv(cell: nn.Cell, path: Path) -> None:
    """As MindCV's trainer does, in the background."""
    CheckpointManager().save_ckpoint(cell, save_path=str(path))
    _wait_async_thread_save_ckpt()


def assert_loads(network: nn.Cell, path: Path, use_ema: bool = False):
    """Load into a new network; all values must be those of the trained one."""
    fresh = Net()
    report = load_weights(fresh, path, use_ema)
    assert report.loaded == 7
    trained = [p.asnumpy() for p in network.get_parameters()]
    for p, value in zip(fresh.get_parameters(), trained):
        np.testing.assert_array_equal(p.asnumpy(), value)
    return report


@pytest.mark.parametrize("name", MINDCVS)
def test_mindcvs_training_with_each_of_its_optimizers(name, tmp_path):
    network = Net()
    optimizer = create_optimizer(network.trainable_params(), name, lr=[0.1, 0.2])
    cell = TrainStep(nn.WithLossCell(network, nn.MSELoss()), optimizer, Tensor(1.0), ema=True)
    if name != "lamb":  # MindSpore has it on Ascend and GPU only
        train_one_step(cell)
    save_as_mindcv(cell, tmp_path / "net-1_1.ckpt")
    report = assert_loads(network, tmp_path / "net-1_1.ckpt")
    assert report.prefixes == ()
    assert report.ignored > 7
    averaged = Net()
    assert load_weights(averaged, tmp_path / "net-1_1.ckpt", use_ema=True).ema
    average = next(p for p in cell.get_parameters() if p.name == "ema.conv1.weight")
    np.testing.assert_array_equal(averaged.conv1.weight.asnumpy(), average.asnumpy())


def test_mindcvs_gradient_accumulation_renames_trained_weights_and_not_statistics(tmp_path):
    network = Net()
    optimizer = create_optimizer(network.trainable_params(), "adamw", lr=[0.1, 0.2])
    loss = nn.WithLossCell(network, nn.MSELoss())
    cell = TrainStep(loss, optimizer, Tensor(1.0), ema=True, gradient_accumulation_steps=2)
    save_as_mindcv(cell, tmp_path / "a.ckpt")
    names = ms.load_checkpoint(str(tmp_path / "a.ckpt"))
    assert {"optimizer.conv1.weight", "bn1.moving_mean", "ema.conv1.weight"} <= names.keys()
    assert assert_loads(network, tmp_path / "a.ckpt").prefixes == ("optimizer.",)
    assert load_weights(Net(), tmp_path / "a.ckpt", use_ema=True).loaded == 7


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("name", MINDSPORES)
def test_each_of_mindspores_optimizers_before_and_after_wrapping(name, suffix, tmp_path):
    for made_first in (True, False):
        network = Net()
        optimizer = MINDSPORES[name](network.trainable_params()) if made_first else None
        wrapped = Wrapped(network)
        cell = nn.TrainOneStepCell(
            wrapped, optimizer or MINDSPORES[name](wrapped.trainable_params())
        )
        path = tmp_path / f"{made_first}.{suffix}"
        ms.save_checkpoint(cell, str(path), format=suffix)
        assert assert_loads(network, path).prefixes == ("network.",)


def test_a_model_of_mindspore_trained_with_its_own_callback(tmp_path):
    from mindspore.train import CheckpointConfig, Model, ModelCheckpoint

    network = Net()
    draw = np.random.default_rng(1)
    rows = [
        (draw.normal(size=(3, 8, 8)).astype(np.float32), np.zeros(2, np.float32)) for _ in range(4)
    ]
    data = ms.dataset.GeneratorDataset(rows, ["image", "label"]).batch(2)
    model = Model(network, nn.MSELoss(), nn.Adam(network.trainable_params()))
    config = CheckpointConfig(save_checkpoint_steps=2, append_info=["epoch_num", "step_num"])
    model.train(1, data, callbacks=[ModelCheckpoint("net", str(tmp_path), config)])
    (path,) = tmp_path.glob("*.ckpt")
    assert assert_loads(network, path).ignored > 2 * 5


def test_a_users_train_cell_with_the_optimizer_in_it(tmp_path):
    network = Net()
    cell = UsersTrainCell(network, nn.Adam(network.trainable_params()))
    path = tmp_path / "a.ckpt"
    ms.save_checkpoint(cell, str(path))
    assert assert_loads(network, path).prefixes == ("optimizer.", "network.")


def test_what_mindspores_list_of_names_may_hold_beside(tmp_path):
    network = Net()
    extra = {"epoch_num": 3, "lr": 0.1, "note": "text", "rates": Tensor(np.ones(9, np.float32))}
    ms.save_checkpoint(network, str(tmp_path / "a.ckpt"), append_dict=extra)
    assert assert_loads(network, tmp_path / "a.ckpt").ignored == 3


def test_two_networks_in_one_file_are_refused_and_named(tmp_path):
    teacher, student = Wrapped(Net()), Net()
    parts = {f"student.{p.name}": p for p in student.get_parameters()}
    parts.update({p.name: p for p in teacher.get_parameters()})
    path = tmp_path / "a.ckpt"
    ms.save_checkpoint(parts, str(path))
    with pytest.raises(CheckpointError, match=r"2 sets of weights .*: network\.\* and student\.\*"):
        load_weights(Net(), path)


def test_mindcvs_file_of_the_optimizer_alone_is_named(tmp_path):
    network = Net()
    optimizer = create_optimizer(network.trainable_params(), "adamw", lr=0.1)
    ms.save_checkpoint(optimizer, str(tmp_path / "optim_net.ckpt"))
    with pytest.raises(CheckpointError, match="looks like an optimizer's file") as caught:
        load_weights(Net(), tmp_path / "optim_net.ckpt")
    assert "2 missing in the file:\n    bn1.moving_mean\n" in str(caught.value)


def test_averages_alone_are_loaded_with_use_ema_only(tmp_path):
    network = Net()
    path = tmp_path / "a.ckpt"
    ms.save_checkpoint({f"ema.{p.name}": p for p in network.get_parameters()}, str(path))
    with pytest.raises(CheckpointError, match="holds averaged weights alone"):
        load_weights(Net(), path)
    assert_loads(network, path, use_ema=True)


def test_a_path_that_the_system_refuses_is_told(tmp_path):
    for path in (tmp_path / ("x" * 300), tmp_path / f"{'x' * 300}.json"):
        with pytest.raises(CheckpointError, match="can't be read as a checkpoint: File name too l"):
            read_weights_file(path, 100)
        assert not is_pickled(path)
