"""Runs on every rank of test_all_reduce.py's jobs; rank 0 prints OK if all is right.

``all_reduce_ranks.py LIBRARY``, or ``all_reduce_ranks.py LIBRARY kill``: the last rank then kills
itself while the others wait for it.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time

from mindcv_ghost.launch.cluster import join
from mindcv_ghost.launch.script import run_script
from mindcv_ghost.launch.world import World, detect

# Fewer values than ranks, odd sizes, more than a block of the shared memory (rank_group.h).
SHAPES = ((1,), (3, 1, 3, 3), (2,), (5,), (64,), (70_001,), (1000, 301), (3,))


def main(argv: list[str]) -> int:
    import mindspore as ms

    from mindcv_ghost.engine.collectives import Collectives
    from mindcv_ghost.kernels.all_reduce import share_memory

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
    world, library = detect(os.environ), argv[0]
    join(world, "CPU")
    collectives = Collectives(world.rank, world.size)
    if argv[1:] != ["kill"]:
        fall_back(library, world, collectives)
    assert share_memory(library, world.rank, world.size, collectives.gather) == ""
    if argv[1:] == ["kill"]:
        kill_last(library, world)
    compare_sums(library, world)
    compare_steps(library, world)
    if world.is_main:
        print("OK")
    return 0


def fall_back(library: str, world: World, collectives) -> None:
    """Every obstacle is named to all ranks, and leaves no rank waiting."""
    from mindcv_ghost.kernels import all_reduce

    last, create, opens = world.size - 1, all_reduce._create, all_reduce._open

    def share(path: str = library) -> str:
        return all_reduce.share_memory(path, world.rank, world.size, collectives.gather)

    def limited(token, size):  # what a full memory does, at any size
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            return create(token, size)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    def told(rank: int, number: int) -> str:
        return f"rank {rank} can't share memory ({os.strerror(number)})"

    def refused(*_):  # what another user's rank gets
        raise PermissionError(errno.EACCES, "refused")

    all_reduce._create = limited
    assert share() == told(0, errno.EFBIG), share()
    all_reduce._create = create
    if world.rank == last:
        all_reduce._open = refused
    assert share() == told(last, errno.EACCES)
    if world.rank == last:  # in another container rank 0's number is some other process's
        all_reduce._open = lambda process, number, token, size: opens(
            os.getpid(), os.open(sys.executable, os.O_RDONLY), token, size
        )
    assert "can't share memory" in share()
    all_reduce._open = opens
    assert share("" if world.rank == last else library) == told(last, errno.ENOSYS)
    # The directory's own number is gone when its link is read.
    numbers = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    names = [os.readlink(number) for number in numbers if os.path.islink(number)]
    assert not any("mindcv-ghost" in name for name in names), names


def kill_last(library: str, world: World) -> None:
    """Let all ranks but the last one wait in the operator."""
    from mindspore import Tensor

    from mindcv_ghost.kernels.all_reduce import AllReduce

    if world.rank == world.size - 1:
        time.sleep(2)
        print(f"killed at {time.time()}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    AllReduce(library)(Tensor([1.0])).asnumpy()
    print("a sum without the last rank")


def compare_sums(library: str, world: World) -> None:
    """The operator's means and sums are MindSpore's, bit for bit."""
    import numpy as np
    from mindspore import Parameter, Tensor, nn, ops

    from mindcv_ghost.kernels.all_reduce import AllReduce

    class Reduce(nn.Cell):
        def __init__(self, reducer):
            super().__init__()
            self.reducer = reducer

        def construct(self, x):
            return self.reducer(x)

    weights = [
        Parameter(Tensor(np.zeros(s, np.float32)), name=str(i)) for i, s in enumerate(SHAPES)
    ]
    random = np.random.default_rng(world.rank)
    values = [random.normal(size=s).astype(np.float32) * 10.0**world.rank for s in SHAPES]
    tensors = tuple(Tensor(each.astype(np.float32)) for each in values)
    for count in (len(SHAPES), 1):
        mine = Reduce(AllReduce(library, 1 / world.size))(tensors[:count])
        other = Reduce(nn.DistributedGradReducer(weights[:count], True, world.size))(
            tensors[:count]
        )
        for shape, a, b in zip(SHAPES, mine, other):
            assert a.shape == b.shape == shape
            assert a.asnumpy().tobytes() == b.asnumpy().tobytes(), shape
    counts = Tensor([1.0, 0.0, float(world.rank)])
    total = Reduce(AllReduce(library))(counts).asnumpy()
    assert np.array_equal(total, Reduce(ops.AllReduce())(counts).asnumpy())
    assert total.tolist() == [world.size, 0, world.size * (world.size - 1) / 2]


def compare_steps(library: str, world: World) -> None:
    """Steps end with the same weights, skip the same updates and hear the same requests."""
    from mindcv_ghost.engine.optimizers import OptimizerSettings, create_optimizer
    from mindcv_ghost.engine.step import LossScale, NetworkWithLoss, Outcome, TrainStep
    from mindcv_ghost.kernels.all_reduce import AllReduce
    from tests.engine.networks import CrossEntropy, Linear, batch

    results = []
    for reducers in (None, (AllReduce(library, 1 / world.size), AllReduce(library))):
        network = Linear()
        step = TrainStep(
            NetworkWithLoss(network, CrossEntropy()),
            create_optimizer(network, OptimizerSettings("momentum"), [0.1] * 20, "CPU"),
            LossScale(1024.0, dynamic=True),
            clip_norm=0.5,
            accumulation_steps=2,
            ranks=world.size,
            reducers=reducers,
        )
        step.set_train()
        seen = []
        for update in range(4):
            step.request(stop=update == 3 and world.rank == 1, save=False)
            for part in range(2):
                image, label = batch(5, seed=8 * world.rank + 2 * update + part)
                if update == 1 and world.rank == world.size - 1:
                    image = image * float("inf")
                step(image, label)
            seen.append(Outcome.read(step.update(2)))
        assert [each.finite for each in seen] == [True, False, True, True]
        assert [each.stop for each in seen] == [False, False, False, True]
        results.append((network.classifier.weight.asnumpy().tobytes(), step.scale))
    assert results[0] == results[1]


if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1:]))
