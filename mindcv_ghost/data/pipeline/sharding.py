"""Which image goes to which rank and step: index arithmetic only, without MindSpore.

Two rules hold here. The order of an epoch depends on ``(seed, epoch)`` and nothing else, so that a
run can be repeated, resumed or spread over more ranks. And rank ``r`` of ``n`` reads every ``n``-th
image of one common order, so that the ``n`` ranks' batches of ``B`` at step ``k`` are together one
rank's batch of ``n * B`` at step ``k``.

Terms: *positions* ``0..total-1`` of an epoch; the *indices* of the images at these positions; the
*shard* of positions that one rank reads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["EvalShard", "TrainSampler", "TrainShard", "epoch_order", "mix_seed", "sample_seeds"]


def mix_seed(*parts: int) -> int:
    """Return a 31-bit seed that depends on every part, e.g. ``mix_seed(seed, epoch, rank)``.

    With a sum such as ``seed + epoch``, epoch 2 of seed 1 and epoch 1 of seed 2 would draw alike.

    >>> mix_seed(1, 2) == mix_seed(1, 2), mix_seed(1, 2) == mix_seed(2, 1)
    (True, False)
    """
    sequence = np.random.SeedSequence([part & 0xFFFFFFFF for part in parts])
    return int(sequence.generate_state(1)[0] >> 1)


def sample_seeds(positions: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """Return a 32-bit random seed for each position of an epoch, int64 of the shape of positions.

    It is the same whichever rank or thread reads the position: SplitMix64's mixing function over a
    counter (Steele, Lea, Flood, 2014).

    >>> sample_seeds(np.arange(3), seed=1, epoch=0).tolist()[1]
    1
    """
    start = np.random.SeedSequence([seed & 0xFFFFFFFF, epoch]).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64
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
    """Return the indices of one epoch in the order in which all ranks together read them.

    Args:
        images: size of the set.
        seed: decides the order, with ``epoch``.
        epoch: from 0.
        shuffle: False keeps the order of the set.
        num_samples: most images of an epoch, of all ranks together, drawn again each epoch.
        aug_repeats: repeated augmentation (Hoffer et al., 2020; as MindCV's ``RepeatAugSampler``):
            each image comes this many times in a row, which puts its copies on different ranks,
            and the epoch ends after as many samples as the set has images.

    Returns:
        int64 array of at most ``images`` indices.

    >>> epoch_order(4, seed=0, epoch=0, shuffle=False, aug_repeats=3).tolist()
    [0, 0, 0, 1]
    """
    if shuffle:
        # NumPy's compatibility policy freezes RandomState's streams, not Generator's. An order must
        # survive an upgrade, or a resumed run reads some images twice.
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
    they make one more, smaller batch. It has the same size on every rank: up to ``size - 1``
    samples from the start of the epoch's order are repeated.

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
        """Return the positions in the epoch's order that this rank reads, int64 (samples,).

        The stride ``size`` makes the ranks' ``k``-th batches together the ``k``-th global batch.
        """
        positions = np.arange(self.samples, dtype=np.int64) * self.size + self.rank
        return positions % max(self.total, 1)


@dataclass(frozen=True)
class TrainSampler:
    """Which images one rank reads in each epoch, and a random seed for each of them.

    Args:
        images: size of the set.
        shard: this rank's share of an epoch.
        seed: of the run.
        shuffle: see :func:`epoch_order`.
        num_samples: see :func:`epoch_order`.
        aug_repeats: see :func:`epoch_order`.
    """

    images: int
    shard: TrainShard
    seed: int
    shuffle: bool = True
    num_samples: int | None = None
    aug_repeats: int = 0

    def indices(self, epoch: int) -> np.ndarray:
        """Return the indices of this rank's images in an epoch, in order, int64 (samples,)."""
        order = epoch_order(
            self.images,
            seed=self.seed,
            epoch=epoch,
            shuffle=self.shuffle,
            num_samples=self.num_samples,
            aug_repeats=self.aug_repeats,
        )
        return order[self.shard.positions()]

    def seeds(self, epoch: int) -> np.ndarray:
        """Return the random seeds of these images, int64 (samples,)."""
        return sample_seeds(self.shard.positions(), seed=self.seed, epoch=epoch)


@dataclass(frozen=True)
class EvalShard:
    """One rank's share of a set in which every image counts exactly once.

    All ranks have the same number of steps and all batches the same size, so that a network is
    compiled for one shape. The padding is ``-1``.

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
        """Return this rank's indices, int64 (steps * batch_size,), padded with ``-1``."""
        indices = np.arange(self.steps * self.batch_size, dtype=np.int64) * self.size + self.rank
        return np.where(indices < self.total, indices, -1)
