"""The order of images and the ranks' shards of it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mindcv_ghost.data.pipeline.sharding import (
    EvalShard,
    TrainShard,
    epoch_order,
    mix_seed,
    sample_seeds,
)

sizes = st.integers(1, 9)
batches = st.integers(1, 7)
totals = st.integers(1, 200)


@given(totals, batches, sizes)
def test_every_evaluation_image_is_read_once_by_one_rank(total, batch_size, size):
    shards = [EvalShard(total, batch_size, rank, size) for rank in range(size)]
    indices = np.concatenate([shard.indices() for shard in shards])
    assert sorted(indices[indices >= 0].tolist()) == list(range(total))
    assert {shard.steps for shard in shards} == {-(-total // (batch_size * size))}
    assert {len(shard.indices()) for shard in shards} == {shards[0].steps * batch_size}


@given(totals, batches, sizes)
def test_ranks_together_train_on_the_batches_of_one_rank(total, batch_size, size):
    alone = TrainShard(total, batch_size * size)
    ranks = [TrainShard(total, batch_size, rank, size) for rank in range(size)]
    assert {rank.steps for rank in ranks} == {alone.steps}
    expected = alone.positions().reshape(alone.steps, batch_size * size)
    shares = np.stack([rank.positions().reshape(rank.steps, batch_size) for rank in ranks])
    for step in range(alone.steps):
        assert sorted(shares[:, step].ravel().tolist()) == sorted(expected[step].tolist())


@given(totals, batches, sizes)
def test_without_drop_remainder_every_image_is_read_and_few_twice(total, batch_size, size):
    ranks = [
        TrainShard(total, batch_size, rank, size, drop_remainder=False) for rank in range(size)
    ]
    positions = np.concatenate([rank.positions() for rank in ranks])
    assert set(positions.tolist()) == set(range(total))
    assert len(positions) - total < size
    assert len({(rank.steps, rank.samples) for rank in ranks}) == 1
    assert ranks[0].steps == -(-total // (batch_size * size))


@given(totals, st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_an_order_is_a_permutation_that_depends_on_seed_and_epoch(images, seed, epoch):
    order = epoch_order(images, seed=seed, epoch=epoch)
    assert sorted(order.tolist()) == list(range(images))
    assert np.array_equal(order, epoch_order(images, seed=seed, epoch=epoch))
    if images > 20:
        assert not np.array_equal(order, epoch_order(images, seed=seed, epoch=epoch + 1))
        assert not np.array_equal(order, epoch_order(images, seed=seed + 1, epoch=epoch))


def test_an_order_is_the_same_in_every_version():
    assert epoch_order(10, seed=42, epoch=3).tolist() == [5, 7, 4, 1, 8, 2, 0, 6, 9, 3]
    assert mix_seed(42, 3, 1) == 1479452766
    assert sample_seeds(np.arange(3), seed=42, epoch=3).tolist() == [
        1139095624,
        2966523332,
        1654911408,
    ]


@given(totals, st.integers(1, 250))
def test_num_samples_cuts_off_the_epochs_order(images, wanted):
    whole = epoch_order(images, seed=1, epoch=2)
    assert epoch_order(images, seed=1, epoch=2, num_samples=wanted).tolist() == (
        whole[:wanted].tolist()
    )


@given(totals, st.integers(2, 5))
def test_repeated_augmentation_repeats_each_index_in_a_row(images, repeats):
    order = epoch_order(images, seed=1, epoch=0, aug_repeats=repeats)
    assert len(order) == images
    blocks = order[: images // repeats * repeats].reshape(-1, repeats)
    assert (blocks == blocks[:, :1]).all()
    assert len(np.unique(order)) == -(-images // repeats)


def test_repeated_augmentation_puts_copies_on_different_ranks():
    order = epoch_order(30, seed=1, epoch=0, aug_repeats=3)
    shares = [order[TrainShard(30, 5, rank, 3).positions()].tolist() for rank in range(3)]
    assert shares[0] == shares[1] == shares[2]
    assert len(set(shares[0])) == 10


@given(st.integers(0, 2**31), st.integers(0, 500))
def test_seeds_differ_and_depend_on_the_position(seed, epoch):
    seeds = sample_seeds(np.arange(1000), seed=seed, epoch=epoch)
    assert len(np.unique(seeds)) > 995
    assert seeds.min() >= 0 and seeds.max() < 2**32
    some = np.array([700, 3, 44])
    assert np.array_equal(sample_seeds(some, seed=seed, epoch=epoch), seeds[some])


def test_sharding_needs_no_mindspore():
    code = (
        "import sys, mindcv_ghost.data.pipeline.sharding, mindcv_ghost.data.sets.sources, "
        "mindcv_ghost.data.imagenet, mindcv_ghost.data.sets.digits;"
        "assert not {'mindspore', 'mindcv'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
