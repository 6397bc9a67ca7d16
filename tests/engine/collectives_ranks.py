"""What test_two_ranks.py checks of collectives, on every rank."""

from __future__ import annotations

from mindcv_ghost.launch.world import World


def check_collectives(world: World) -> None:
    import numpy as np
    from mindspore import Parameter, Tensor, nn

    from mindcv_ghost.engine.collectives import Collectives

    collectives = Collectives(world.rank, world.size)
    for dtype in (np.int64, np.float64, np.uint8, np.float32):
        values = np.array([[1, 2**7 + world.rank], [0, 255]]).astype(dtype) * 1
        rows = collectives.gather(values)
        assert rows.shape == (world.size, 2, 2)
        assert rows.dtype == dtype
        for rank in range(world.size):
            assert rows[rank, 0, 1] == 2**7 + rank
    total = collectives.total(np.array([[2**53 + world.rank, 1]]))
    ranks = range(world.size)
    assert total.tolist() == [[world.size * 2**53 + sum(ranks), world.size]]
    large = collectives.gather(np.int64(2**53 + 1 + world.rank))
    assert large.tolist() == [2**53 + 1 + rank for rank in range(world.size)]
    third = collectives.gather(np.float64(1 / 3 + world.rank))
    assert third.tolist() == [1 / 3 + rank for rank in range(world.size)]

    network = nn.Dense(3, 2, Tensor(np.full((2, 3), 1.5 + world.rank, np.float32)))
    network.count = Parameter(Tensor(7 + world.rank), name="count", requires_grad=False)
    try:
        collectives.assert_equal(network)
        raise SystemExit("differing parameters went unnoticed")
    except RuntimeError as error:
        assert "ranks [1] differ from those of rank 0" in str(error)
    collectives.broadcast_parameters(network)
    collectives.assert_equal(network)
    assert float(network.weight.asnumpy()[0, 0]) == 1.5
    assert int(network.count.asnumpy()) == 7

    network.weight.set_data(Tensor(np.full((2, 3), 1.0 + world.rank, np.float32)))
    collectives.average([network.weight])
    assert float(network.weight.asnumpy()[1, 2]) == 1.5
    collectives.barrier()

    # Sums and bytes are right on both sides of each size that is sent at once, in three shapes.
    shapes = set()
    sends = collectives._sum

    def counting(tensor):
        shapes.add(tuple(tensor.shape))
        return sends(tensor)

    collectives._sum = counting
    for size in (0, 1, 255, 256, 257, 65536, 65537, 2**22 + 3):
        values = np.arange(size, dtype=np.float32) % 1000 + world.rank
        expected = 2 * (values - world.rank) + 1
        assert np.array_equal(collectives.sum(values), expected)
    flags = np.arange(70001) % 3 == world.rank
    assert np.array_equal(collectives.broadcast(flags, 1), np.arange(70001) % 3 == 1)
    assert shapes == {(256,), (65536,), (2**22,)}
