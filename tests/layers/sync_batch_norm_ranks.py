"""What test_sync_batch_norm.py starts under msrun: gradients and statistics of one rank.

Usage: sync_batch_norm_ranks.py OUTPUT_FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.communication import get_rank, init

from mindcv_ghost.layers import ConvNormAct, GhostModule, convert_sync_batch_norm

IMAGES = 8
SHARES = {1: (slice(0, 8),), 2: (slice(0, 3), slice(3, 8))}  # uneven, to be harder
MODES = {"graph": ms.GRAPH_MODE, "pynative": ms.PYNATIVE_MODE}


class Net(nn.Cell):
    """Batch norms in a row, side by side and before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.SequentialCell(ConvNormAct(3, 8, 3, act=nn.ReLU), GhostModule(8, 12))
        self.left = GhostModule(12, 10, 3, ratio=3, stride=2)
        self.right = GhostModule(12, 10, 1, stride=2, act=False)
        self.head = nn.Dense(10, 5)

    def construct(self, x):
        x = self.stem(x)
        x = self.left(x) + self.right(x)
        return self.head(x.mean(axis=(2, 3)))


class LossOfRank(nn.Cell):
    """Summed, so that the mean over ranks is that of the whole batch over the number of ranks."""

    def __init__(self, network: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.network = network
        self.loss = nn.CrossEntropyLoss(reduction="sum")

    def construct(self, images, labels):
        return self.loss(self.network(images), labels)


class Gradients(nn.Cell):
    """Gradients of the loss with respect to the parameters, averaged over ranks."""

    def __init__(self, network: nn.Cell, size: int) -> None:
        super().__init__(auto_prefix=False)
        self.loss = LossOfRank(network)
        self.parameters = ms.ParameterTuple(network.trainable_params())
        self.gradient = ops.GradOperation(get_by_list=True)
        self.average = nn.Identity()
        if size > 1:
            self.average = nn.DistributedGradReducer(self.parameters, mean=True, degree=size)

    def construct(self, images, labels):
        return self.average(self.gradient(self.loss, self.parameters)(images, labels))


def train_step(rank: int, size: int) -> dict[str, np.ndarray]:
    """Gradients, running statistics after the step and evaluation outputs, by name."""
    random = np.random.RandomState(0)
    network = Net()
    for parameter in network.get_parameters():
        noise = random.standard_normal(parameter.shape).astype(np.float32)
        kept = parameter.name.endswith(("gamma", "moving_variance"))
        parameter.set_data(Tensor(1.0 + 0.2 * np.tanh(noise) if kept else 0.3 * noise))
    network = convert_sync_batch_norm(network, size).set_train()

    images = random.standard_normal((IMAGES, 3, 9, 9)).astype(np.float32) + 0.5
    labels = random.randint(0, 5, IMAGES).astype(np.int32)
    share = SHARES[size][rank]
    step = Gradients(network, size).set_train()
    gradients = step(Tensor(images[share]), Tensor(labels[share]))
    found = {p.name: g.asnumpy() * size for p, g in zip(network.trainable_params(), gradients)}
    for parameter in network.untrainable_params():
        found[parameter.name] = parameter.asnumpy().copy()
    found["evaluated"] = network.set_train(False)(Tensor(images)).asnumpy()
    return found


def main() -> None:
    rank, size = 0, int(os.environ.get("MS_WORKER_NUM", "1"))
    if size > 1:
        init()
        rank = get_rank()
        ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL)
    for name, mode in MODES.items():
        ms.set_context(mode=mode)
        np.savez(Path(sys.argv[1]) / f"{name}-{rank}.npz", **train_step(rank, size))


if __name__ == "__main__":
    main()
