"""validate.py and train.py take what another trainer has saved."""

from __future__ import annotations

import mindcv
import mindspore as ms
import pytest
from mindcv.utils.train_step import TrainStep
from mindspore import Tensor, nn

from .conftest import recipe


class Wrapped(nn.Cell):
    """A user's cell, which puts its attribute's name before the network's names."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__()
        self.network = network

    def construct(self, x):
        return self.network(x)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A ResNet-18 as MindCV's trainer saves it, with adamw's state; plain, and under a prefix."""
    folder = tmp_path_factory.mktemp("trained")
    ms.set_seed(5)
    network = mindcv.create_model("resnet18", num_classes=6)
    ms.save_checkpoint(network, str(folder / "plain.ckpt"))
    wrapped = Wrapped(network)
    optimizer = mindcv.create_optimizer(wrapped.trainable_params(), "adamw", lr=[0.1, 0.2])
    cell = TrainStep(nn.WithLossCell(wrapped, nn.MSELoss()), optimizer, Tensor(1.0), ema=True)
    for suffix in ("ckpt", "safetensors"):
        ms.save_checkpoint(cell, str(folder / f"cell.{suffix}"), format=suffix)
    return folder


@pytest.mark.slow
def test_a_checkpoint_of_mindcvs_adamw_under_a_prefix_validates_like_the_plain_one(
    images, trained, scripts
):
    options = recipe(images, model="resnet18")
    done = [
        scripts.validate(*options, "--ckpt_path", trained / name)
        for name in ("plain.ckpt", "cell.ckpt", "cell.safetensors")
    ]
    for other in done[1:]:
        assert "102 weights; 'network.' was taken off the names; " in other.out
        for key in ("images", "correct", "correct_top5", "loss"):
            assert other.json[key] == done[0].json[key]


def test_a_pytorch_file_is_refused_with_the_command_that_converts_it(images, scripts):
    (scripts.cwd / "w.pth").write_bytes(b"PK\x03\x04" + bytes(100))
    done = scripts.validate(*recipe(images), "--ckpt_path", "w.pth", status=2)
    command = "python -m mindcv_ghost.convert w.pth w.ckpt --model ghost_resnet18"
    assert command in done.err


@pytest.mark.slow
def test_fit_starts_from_a_checkpoint_under_a_prefix(images, trained, scripts):
    done = scripts.train(
        *recipe(images, model="resnet18", epoch_size=1),
        *("--ckpt_path", trained / "cell.safetensors", "--ckpt_save_dir", "run"),
        *("--ghostify", "ratio=2", "init=fit", "calibration_images=24", "where=layer4.*"),
    )
    assert "'network.' was taken off the names" in done.out
    assert "5 of 20 convolutions are Ghost modules" in done.out
