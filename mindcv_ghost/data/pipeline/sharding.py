"""Which image goes to which rank and step: index arithmetic alone, without MindSpore.

Two rules hold for every function here. The order of an epoch depends on ``(seed, epoch)`` and
nothing else, so that a run can be repeated, resumed or spread over more ranks. And the ranks deal
one common order like cards, so that what ``n`` ranks see at step ``k`` with batches of ``B`` is
what one rank sees at step ``k`` with batches of ``n * B``.

An order is cut into three: *positions* ``0..total-1`` of an epoch, the *indices* of the images at
these positions, and the *shard* of positions that one rank reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["EvalShard", "TrainShard", "epoch_order", "mix_seed", "sample_seeds"]


def mix_seed(*parts: int) -> int:
    """A 31-bit seed that depends on every part, e.g. ``mix_seed(seed, epoch, rank)``.

    Sums such as ``seed + epoch`` would give run 1's epoch 2 and run 2's epoch 1 the same draws.

    >>> mix_seed(1, 2) == mix_seed(1, 2), mix_seed(1, 2) == mix_seed(2, 1)
    (True, False)
    """
    sequence = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts])
    return int(sequence.generate_state(1)[0] >> 1)


def sample_seeds(positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """A 32-bit seed for each position of an epoch, the same whichever rank or thread has it.

    SplitMix64's mixing function over a counter (Steele, Lea, Flood, 2014).

    >>> sample_seeds(np.arange(3), seed=1, epoch=0).tolist()[1]
    1
    """
    start = np.random.SeedSequence([seed & 0xFFFFFFFF, epoch]).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):  # wrapping is what it is about
        z = start + positions.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z >> np.uint64(32)).astype(np.int64)


def epoch_order(
    images: int,
    *,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    num_samples: int | None = None,
    aug_repeats: int = 0,
) -> np.ndarray:
    """The indices of one epoch in the order in which all ranks together read them.

    Args:
        images: size of the set.
        seed, epoch: what the order depends on.
        shuffle: False keeps the order of the set.
        num_samples: at most so many images (of all ranks together), drawn anew each epoch.
        aug_repeats: repeated augmentation (Hoffer et al., 2020; as MindCV's ``RepeatAugSampler``):
            each image comes so many times in a row, which puts its copies on different ranks, and
            the epoch ends after as many samples as the set has images.

    Returns:
        int64 array of at most ``images`` indices.

    >>> epoch_order(4, seed=0, epoch=0, shuffle=False, aug_repeats=3).tolist()
    [0, 0, 0, 1]
    """
    if shuffle:
        # RandomState's streams are frozen by NumPy's compatibility policy, Generator's are not:
        # an order must outlive an upgrade, or a resumed run reads some images twice.
        sequence = np.random.SeedSequence([seed & 0xFFFFFFFF, epoch])
        order = np.random.RandomState(np.random.MT19937(sequence)).permutation(images)
    else:
        order = np.arange(images)
    wanted = images if num_samples is None else min(num_samples, images)
    if aug_repeats > 1:
        order = np.repeat(order[: -(-wanted // aug_repeats)], aug_repeats)
    return order[:wanted].astype(np.int64)


@dataclass(frozen=True)
class TrainShard:
    """One rank's share of an epoch of ``total`` samples.

    With ``drop_remainder`` the samples after the last whole global batch are left out. Without it
    they make one more, smaller batch, of the same size on every rank: what is missing to that is
    taken from the start of the epoch's order again (fewer than ``size`` samples).

    >>> TrainShard(10, batch_size=2, rank=1, size=2).positions().tolist()
    [1, 3, 5, 7]
    >>> TrainShard(10, batch_size=2, rank=1, size=2, drop_remainder=False).positions().tolist()
    [1, 3, 5, 7, 9]
    """

    total: int
    batch_size: int
    rank: int = 0
    size: int = 1
    drop_remainder: bool = True

    @property
    def steps(self) -> int:
        """Batches an epoch, the same on every rank."""
        global_batch = self.batch_size * self.size
        return self.total // global_batch if self.drop_remainder else -(-self.total // global_batch)

    @property
    def samples(self) -> int:
        """Samples an epoch that this rank reads, the same on every rank."""
        if self.drop_remainder:
            return self.steps * self.batch_size
        whole = self.total // (self.batch_size * self.size)
        rest = self.total - whole * self.batch_size * self.size
        return whole * self.batch_size + -(-rest // self.size)

    def positions(self) -> np.ndarray:
        """Positions in the epoch's order that this rank reads, in its own order.

        Dealing one by one makes the ranks' ``k``-th batches together the ``k``-th global batch.
        """
        positions = np.arange(self.samples, dtype=np.int64) * self.size + self.rank
        return positions % max(self.total, 1)


@dataclass(frozen=True)
class EvalShard:
    """One rank's share of a set of which every image counts exactly once.

    All ranks have the same number of steps and all batches the same size, so that a compiled
    network meets one shape; what is missing is filled with ``-1``.

    >>> [EvalShard(total=5, batch_size=2, rank=r, size=2).indices().tolist() for r in (0, 1)]
    [[0, 2, 4, -1], [1, 3, -1, -1]]
    """

    total: int
    batch_size: int
    rank: int = 0
    size: int = 1

    @property
    def steps(self) -> int:
        """Batches, the same on every rank."""
        return -(-self.total // (self.batch_size * self.size))

    def indices(self) -> np.ndarray:
        """Indices that this rank reads, ``-1`` where nothing is left; ``steps * batch_size``."""
        indices = np.arange(self.steps * self.batch_size, dtype=np.int64) * self.size + self.rank
        return np.where(indices < self.total, indices, -1)
