"""The loaders on both backends: which images come, in which order, and how they are augmented."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from mindcv_ghost.data import Augment, EvalLoader, TrainLoader, fingerprint, open_source
from mindcv_ghost.data.pipeline.sharding import TrainSampler
from mindcv_ghost.errors import DataError

from .conftest import make_split
from .test_arrays import CIFAR10_FILES, write_cifar, write_mnist

PLAIN = Augment(
    image_resize=16, scale=(1.0, 1.0), ratio=(1.2, 1.2), hflip=0.0, color_jitter=None, crop_pct=1.0
)
RANDOM = Augment(image_resize=16)


@pytest.fixture(params=["our C++", "MindSpore"], autouse=True)
def backend(request, monkeypatch):
    """Run each test with both backends."""
    if request.param == "MindSpore":
        no_decoder = (None, "by MindSpore")
        monkeypatch.setattr(
            "mindcv_ghost.data.pipeline.loader._choose_decoder", lambda *a, **k: no_decoder
        )
    return request.param


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """23 images of three classes: neither 2 nor 3 divides them."""
    root = tmp_path_factory.mktemp("images")
    make_split(root / "train", {"ant": 9, "bee": 8, "cow": 6})
    return root


@pytest.fixture
def source(images):
    return open_source("imagenet", str(images), "train")


def loader(source, augment=PLAIN, **options) -> TrainLoader:
    return TrainLoader(source, augment, **{"batch_size": 4, "num_classes": 3, **options})


def arrays(batches) -> list[list[np.ndarray]]:
    return list(batches.create_tuple_iterator(output_numpy=True))


def fingerprints(batches) -> list[list[bytes]]:
    return [[image.tobytes() for image in batch[0]] for batch in arrays(batches)]


# Evaluation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 23, 40])
def test_every_image_is_evaluated_once_for_any_ranks_and_batch_size(source, ranks, batch_size):
    seen, steps = [], set()
    for rank in range(ranks):
        batches = EvalLoader(source, PLAIN, batch_size=batch_size, rank=rank, size=ranks)
        steps.add(batches.steps)
        rows = arrays(batches.batches())
        assert len(rows) == batches.steps == len(batches.batches())
        assert {row[0].shape for row in rows} == {(batch_size, 3, 16, 16)}
        label, valid = (np.concatenate([row[k] for row in rows]) for k in (1, 2))
        assert label.dtype == valid.dtype == np.int32
        indices = batches.indices
        assert np.array_equal(valid == 1, indices >= 0)
        assert [source.label_of(k) for k in indices if k >= 0] == label[valid == 1].tolist()
        seen += indices[indices >= 0].tolist()
    assert sorted(seen) == list(range(23))
    assert len(steps) == 1


def test_evaluation_images_equal_mindcvs(images, source):
    import mindspore.dataset as ds
    from mindcv.data import create_loader, create_transforms

    augment = Augment(image_resize=32, interpolation="bicubic")
    theirs = create_loader(
        ds.ImageFolderDataset(str(images / "train"), shuffle=False),
        batch_size=23,
        transform=create_transforms("imagenet", 32, interpolation="bicubic"),
        num_parallel_workers=1,
    )
    (expected,) = theirs.create_tuple_iterator(num_epochs=1, output_numpy=True)
    (mine,) = arrays(EvalLoader(source, augment, batch_size=23).batches())
    assert np.array_equal(mine[1], expected[1])
    assert np.array_equal(mine[0], expected[0])


def test_iterating_again_gives_the_same_batches(source):
    batches = EvalLoader(source, PLAIN, batch_size=7).batches()
    assert fingerprints(batches) == fingerprints(batches)


# Order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_train_on_what_one_rank_would(source, ranks):
    alone = fingerprints(loader(source, batch_size=2 * ranks).epoch(1))
    shares = [
        fingerprints(loader(source, batch_size=2, rank=rank, size=ranks).epoch(1))
        for rank in range(ranks)
    ]
    assert len(alone) == 23 // (2 * ranks) == len(shares[0])
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(image for share in shares for image in share[step])


def test_the_order_depends_on_seed_and_epoch_alone(source):
    first = fingerprints(loader(source).epoch(0))
    assert first == fingerprints(loader(source, workers=2).epoch(0))
    assert first != fingerprints(loader(source).epoch(1))
    assert first != fingerprints(loader(source, seed=7).epoch(0))
    labels = np.concatenate([batch[1] for batch in arrays(loader(source).epoch(0))])
    assert labels.tolist() == [source.label_of(k) for k in loader(source).indices(0)]


def test_without_shuffling_the_folders_order_is_kept(source):
    ordered = loader(source, shuffle=False, drop_remainder=False)
    labels = [batch[1].tolist() for batch in arrays(ordered.epoch(5))]
    assert sum(labels, []) == [0] * 9 + [1] * 8 + [2] * 6
    assert [len(batch) for batch in labels] == [4, 4, 4, 4, 4, 3]


def test_the_remainder_is_one_batch_of_the_same_size_on_all_ranks(source):
    shapes = []
    for rank in range(2):
        ours = loader(source, drop_remainder=False, rank=rank, size=2)
        assert (ours.steps_per_epoch, ours.images_per_epoch) == (3, 24)
        shapes.append([batch[0].shape[0] for batch in arrays(ours.epoch(0))])
    assert shapes == [[4, 4, 4], [4, 4, 4]]


def test_num_samples_counts_over_all_ranks_and_changes_with_the_epoch(source):
    halves = [loader(source, num_samples=10, batch_size=2, rank=r, size=2) for r in range(2)]
    assert halves[0].steps_per_epoch == 2 and halves[0].images_per_epoch == 8
    assert not set(halves[0].indices(0)) & set(halves[1].indices(0))
    assert set(halves[0].indices(0)) != set(halves[0].indices(1))


def test_the_whole_runs_pipeline_is_its_epochs_one_after_another(source):
    ours = loader(source)
    whole = ours.whole_run(2, 3).dataset
    assert whole.get_dataset_size() == 3 * ours.steps_per_epoch
    labels = [
        row[1].tolist() for row in whole.create_tuple_iterator(num_epochs=1, output_numpy=True)
    ]
    single = [batch[1].tolist() for epoch in (2, 3, 4) for batch in arrays(ours.epoch(epoch))]
    assert labels == single


@pytest.mark.parametrize("skip", [0, 7])
def test_the_whole_runs_pipeline_keeps_the_short_batch_of_each_epoch(source, skip):
    ours = loader(source, drop_remainder=False)
    whole = ours.whole_run(0, 2, skip).dataset
    assert whole.get_dataset_size() == 2 * ours.steps_per_epoch - skip == 12 - skip
    labels = [
        row[1].tolist() for row in whole.create_tuple_iterator(num_epochs=1, output_numpy=True)
    ]
    single = [batch[1].tolist() for epoch in range(2) for batch in arrays(ours.epoch(epoch))]
    assert labels == single[skip:]
    assert [len(batch) for batch in single] == 2 * [4, 4, 4, 4, 4, 3]


def test_the_whole_runs_pipeline_draws_each_epochs_order_when_its_turn_comes(source, monkeypatch):
    ours, drawn = loader(source), []
    indices = TrainSampler.indices

    def counting(self, epoch):
        drawn.append(epoch)
        return indices(self, epoch)

    monkeypatch.setattr(TrainSampler, "indices", counting)
    whole = ours.whole_run(0, 120).dataset
    assert drawn == []
    iterator = whole.create_tuple_iterator(num_epochs=1, output_numpy=True)
    next(iterator)
    iterator.stop()
    # MindSpore prefetches a few batches, and an epoch has 5.
    assert drawn[0] == 0 and max(drawn) < 20


@pytest.mark.parametrize("skip", [1, 2, 5])
@pytest.mark.parametrize("ranks", [1, 2])
def test_the_rest_of_an_epoch_after_a_resume_is_bit_identical(source, skip, ranks):
    augment = Augment(image_resize=16, auto_augment="randaug-m9-mstd0.5", mixup=0.2, re_prob=0.5)
    for rank in range(ranks):
        batches = loader(source, augment, batch_size=4 // ranks, rank=rank, size=ranks)
        whole, tail = arrays(batches.epoch(3)), arrays(batches.epoch(3, skip))
        assert len(whole) == 5 and len(batches.epoch(3, skip)) == 5 - skip
        assert [[c.tobytes() for c in b] for b in tail] == [
            [c.tobytes() for c in b] for b in whole[skip:]
        ]


def test_the_images_of_a_batch_can_be_named(source):
    batches = loader(source)
    assert batches.names(2, 1) == [source.name_of(int(k)) for k in batches.indices(2)[4:8]]


def test_a_sets_fingerprint_depends_on_names_and_not_on_its_folder(source, images, tmp_path):
    shutil.copytree(images, tmp_path / "elsewhere")
    copied = open_source("imagenet", str(tmp_path / "elsewhere"), "train")
    assert fingerprint(copied) == fingerprint(source)
    victim = tmp_path / "elsewhere" / "train" / "ant" / "000.jpg"
    victim.rename(victim.with_name("100.jpg"))
    renamed = open_source("imagenet", str(tmp_path / "elsewhere"), "train")
    assert len(renamed) == 23 and fingerprint(renamed) != fingerprint(source)


def test_a_global_batch_larger_than_the_set_is_refused_with_the_numbers(source):
    with pytest.raises(DataError, match=r"23 training images .* 8 on each of 3 ranks \(24 images"):
        loader(source, batch_size=8, size=3)
    assert loader(source, batch_size=8, size=3, drop_remainder=False).steps_per_epoch == 1


# Random operations -----------------------------------------------------------------------------

POLICIES = {
    "fused crop, flip, colours": {},
    "randaug": {"auto_augment": "randaug-m9-mstd0.5-inc1"},
    "autoaug": {"auto_augment": "autoaug-mstd0.5"},
    "autoaugr": {"auto_augment": "autoaugr"},
    "3a": {"auto_augment": "3a"},
    "trivialaugwide": {"auto_augment": "trivialaugwide"},
    "augmix": {"auto_augment": "augmix-m5-w4-d2"},
    "erasing": {"re_prob": 0.8},
    "erasing with noise": {"re_prob": 0.8, "re_value": "random"},
    "mixup and cutmix": {"mixup": 0.2, "cutmix": 1.0},
    "three copies": {"aug_splits": 3, "auto_augment": "augmix"},
}


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("policy", POLICIES)
def test_two_runs_augment_alike_and_two_epochs_do_not(source, policy, workers):
    augment = Augment(image_resize=16, **POLICIES[policy])
    runs = []
    for _ in range(2):
        random.seed(len(runs))  # the program's own random numbers don't matter
        np.random.seed(len(runs))
        runs.append(arrays(loader(source, augment, workers=workers, batch_size=5).epoch(3)))
    assert len(runs[0]) == 4
    for first, second in zip(*runs):
        assert np.array_equal(first[0], second[0]) and np.array_equal(first[1], second[1])
        assert np.isfinite(first[0]).all() and first[0].dtype == np.float32
    other = arrays(loader(source, augment, workers=workers, batch_size=5).epoch(4))
    assert not np.array_equal(other[0][0], runs[0][0][0])


@pytest.mark.parametrize("policy", ["randaug", "augmix", "erasing with noise", "mixup and cutmix"])
def test_python_operations_give_the_same_images_with_any_number_of_workers(source, policy):
    settings = {**vars(PLAIN), **POLICIES[policy]}
    one, two = (
        arrays(loader(source, Augment(**settings), workers=workers).epoch(0)) for workers in (1, 2)
    )
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(one, two))


def test_random_operations_change_the_images(source):
    plain = arrays(loader(source).epoch(0))[0][0]
    for policy in ("randaug", "augmix", "erasing", "mixup and cutmix"):
        augment = Augment(**{**vars(PLAIN), **POLICIES[policy]})
        assert not np.array_equal(arrays(loader(source, augment).epoch(0))[0][0], plain), policy


def test_the_programs_own_random_numbers_are_unaffected(source):
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.rand()
    random.seed(1)
    np.random.seed(1)
    arrays(loader(source, Augment(image_resize=16, auto_augment="randaug-m9")).epoch(0))
    assert (random.random(), np.random.rand()) == expected


def test_mixed_labels_add_up_to_one_in_odd_batches_too(source):
    augment = Augment(**{**vars(PLAIN), "mixup": 0.4})
    batches = arrays(loader(source, augment, batch_size=5).epoch(0))
    plain = arrays(loader(source, batch_size=5).epoch(0))
    for (image, label), (clean, single) in zip(batches, plain):
        assert label.shape == (5, 3) and label.dtype == np.float32
        assert np.allclose(label.sum(1), 1)
        assert np.allclose(image[2], clean[2], atol=1e-5)  # the middle image is mixed with itself
        assert label[2, single[2]] == pytest.approx(1)
        share = (image[0] - clean[4])[0, 0, 0] / (clean[0] - clean[4])[0, 0, 0]
        assert np.allclose(image[0], share * clean[0] + (1 - share) * clean[4], atol=1e-3)


def test_one_hot_labels_for_binary_cross_entropy(source):
    for image, label in arrays(loader(source, one_hot=True).epoch(0)):
        assert image.shape == (4, 3, 16, 16)
        assert label.shape == (4, 3) and label.dtype == np.float32
        assert np.array_equal(label.sum(1), np.ones(4)) and set(np.unique(label)) == {0.0, 1.0}


def test_three_copies_are_a_clean_one_and_two_different_augmented_ones(source):
    augment = Augment(**{**vars(PLAIN), "aug_splits": 3, "auto_augment": "randaug-m9-n3"})
    (image, label), *_ = arrays(loader(source, augment, batch_size=6).epoch(0))
    assert image.shape == (18, 3, 16, 16) and label.shape == (18,)
    clean, first, second = image.reshape(3, 6, 3, 16, 16)
    assert np.array_equal(clean, arrays(loader(source, batch_size=6).epoch(0))[0][0])
    assert not np.array_equal(first, second)
    assert np.array_equal(label[:6], label[6:12]) and np.array_equal(label[:6], label[12:])


def test_three_copies_and_mixing_exclude_each_other(source):
    with pytest.raises(DataError, match="aug_splits with mixup"):
        loader(source, Augment(aug_splits=3, mixup=0.2))


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"auto_augment": "randaugg"}, None),
        ({"auto_augment": "rand-m9"}, "there is no 'rand-m9'"),
        ({"auto_augment": "randaug-q9"}, "Unknown RandAugment config section"),
        ({"scale": (-1.0, 1.0)}, "the transforms can't be built"),
        ({"re_prob": 0.5, "re_value": "grey"}, "re_value is 'grey'"),
        ({"mean": (1.0, 2.0)}, "mean has 2 values"),
        ({"aug_splits": 2}, "aug_splits is 2"),
    ],
)
def test_illegal_settings_of_transforms_are_refused_in_one_line(source, settings, text):
    with pytest.raises(DataError, match=text) as caught:
        loader(source, Augment(**settings))
    assert "\n" not in str(caught.value)


# Channels and other sets -----------------------------------------------------------------------


def test_a_network_of_one_channel_gets_grey_images(images):
    colour, grey = (
        open_source("imagenet", str(images), "train", in_channels=channels) for channels in (3, 1)
    )
    augment = Augment(**{**vars(PLAIN), "mean": (0.0,) * 3, "std": (1.0,) * 3})
    (rgb,) = arrays(EvalLoader(colour, augment, batch_size=23).batches())
    (one,) = arrays(EvalLoader(grey, augment, batch_size=23).batches())
    assert one[0].shape == (23, 1, 16, 16)
    expected = np.tensordot([0.299, 0.587, 0.114], rgb[0], axes=(0, 1))
    assert np.abs(one[0][:, 0] - expected).max() <= 1
    erased = Augment(image_resize=16, re_prob=1.0, mean=(128.0,), std=(64.0,))
    assert arrays(loader(grey, erased).epoch(0))[0][0].shape == (4, 1, 16, 16)


@pytest.mark.parametrize("channels", [1, 3])
def test_cifar10_and_mnist_take_mindcvs_transforms(tmp_path, channels):
    write_cifar(tmp_path, CIFAR10_FILES, 4)
    write_mnist(tmp_path)
    for name in ("cifar10", "mnist"):
        train = open_source(name, str(tmp_path), "train", in_channels=channels)
        val = open_source(name, str(tmp_path), "val", in_channels=channels)
        augment = Augment(image_resize=32)
        (image, label), *_ = arrays(
            TrainLoader(train, augment, batch_size=3, num_classes=10).epoch(0)
        )
        assert image.shape == (3, channels, 32, 32) and image.dtype == np.float32
        total = sum(
            int(row[2].sum()) for row in arrays(EvalLoader(val, augment, batch_size=3).batches())
        )
        assert total == len(val)


# Bad images ------------------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path, monkeypatch):
    """23 images, one truncated inside its header; the working directory is empty."""
    make_split(tmp_path / "set" / "train", {"ant": 9, "bee": 8, "cow": 6})
    path = tmp_path / "set" / "train" / "bee" / "002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return path


def opened(path, on_bad_image):
    root = str(path.parents[2])
    return open_source("imagenet", root, "train", on_bad_image=on_bad_image)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_image_stops_training_at_its_batch_with_its_path(damaged, workers):
    source = opened(damaged, "stop")
    ours = loader(source, workers=workers, batch_size=3)
    place = ours.indices(0).tolist().index(11) // 3
    got = 0
    with pytest.raises(DataError) as caught:
        for _ in ours.epoch(0):
            got += 1
    assert got == place
    assert str(caught.value).startswith(f"{damaged}: can't be decoded: Truncated File Read")
    assert os.listdir(".") == []


@pytest.mark.parametrize("before", [0, 1])
def test_a_bad_image_fails_the_whole_run_at_its_batch_without_ending_the_pipeline(damaged, before):
    """For sink mode: an error in the sending thread would throw away the batches in its queue."""
    ours = loader(opened(damaged, "stop"), batch_size=3)
    epoch = next(e for e in range(9) if 11 in ours.indices(e)[3:])
    place = ours.indices(epoch).tolist().index(11) // 3
    skip = place - before
    good = []
    with pytest.raises(DataError):
        for batch in ours.epoch(epoch, skip).create_tuple_iterator(output_numpy=True):
            good.append(batch[0].tobytes())
    assert len(good) == before
    whole = ours.whole_run(epoch, 2, skip)
    sent = arrays(whole.dataset)
    assert len(sent) == 2 * ours.steps_per_epoch - skip
    assert {batch[0].shape for batch in sent} == {(3, 3, 16, 16)}
    assert [batch[0].tobytes() for batch in sent[:before]] == good
    for number in range(before):
        whole.check(number)
    for number in (before, len(sent) - 1):
        with pytest.raises(DataError, match=f"{damaged}: can't be decoded: Truncated File Read"):
            whole.check(number)


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_bad_first_batch_after_a_whole_epoch_fails_with_its_image(damaged, one_hot):
    """A run that was stopped after an epoch's last batch resumes with an empty epoch."""
    ours = loader(opened(damaged, "stop"), batch_size=23, drop_remainder=False, one_hot=one_hot)
    assert ours.steps_per_epoch == 1
    whole = ours.whole_run(0, 2, skip=1)
    (batch,) = arrays(whole.dataset)
    assert batch[0].shape == (23, 3, 16, 16)
    with pytest.raises(DataError, match=str(damaged)):
        whole.check(0)


def test_a_bad_image_is_replaced_by_the_next_good_one_when_skipped(damaged):
    source = opened(damaged, "skip")
    ours = loader(source, drop_remainder=False)
    labels = np.concatenate([batch[1] for batch in arrays(ours.epoch(0))]).tolist()
    order = ours.indices(0).tolist()
    place = order.index(11)
    order[place] = order[(place + 1) % len(order)]
    assert labels == [source.label_of(k) for k in order]
    assert source.bad == {str(damaged): "can't be decoded: Truncated File Read"}
    assert os.listdir(".") == []


def test_a_bad_image_stops_evaluation_with_its_path(damaged):
    source = opened(damaged, "stop")
    with pytest.raises(DataError, match=str(damaged)):
        arrays(EvalLoader(source, PLAIN, batch_size=4).batches())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_skipped_image_still_counts_in_evaluation(damaged, ranks):
    source = opened(damaged, "skip")
    rows = []
    for rank in range(ranks):
        batches = EvalLoader(source, PLAIN, batch_size=4, rank=rank, size=ranks).batches()
        rows += [(label, valid) for _, *cols in arrays(batches) for label, valid in zip(*cols)]
    assert sorted(valid for _, valid in rows if valid) == [1] * 22 + [2]
    assert [label for label, valid in rows if valid == 2] == [1]


def test_a_set_of_only_bad_images_ends_the_run_even_when_skipping(damaged):
    for path in damaged.parents[1].rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"20 images in a row can't be read.*is empty \(0 bytes\)$"):
        arrays(loader(opened(damaged, "skip")).epoch(0))


def test_a_failed_pass_succeeds_after_the_image_is_repaired(damaged):
    source = opened(damaged, "stop")
    batches = EvalLoader(source, PLAIN, batch_size=4).batches()
    with pytest.raises(DataError):
        arrays(batches)
    damaged.write_bytes((damaged.parent / "001.jpg").read_bytes())
    assert sum(int((row[2] == 1).sum()) for row in arrays(batches)) == 23


# Threads ---------------------------------------------------------------------------------------


def test_leaving_a_loop_early_ends_the_reading_threads(source):
    def reading() -> int:
        return sum("mindcv_ghost_read" in thread.name for thread in threading.enumerate())

    batches = iter(loader(source, RANDOM, workers=2).epoch(0))
    next(batches)
    batches.close()
    deadline = time.monotonic() + 10
    while reading() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reading() == 0


LEAVE = """
import sys
from mindcv_ghost.data import Augment, TrainLoader, open_source
source = open_source("imagenet", sys.argv[1], "train")
loader = TrainLoader(source, Augment(image_resize=16), batch_size=2, num_classes=3, workers=2)
batches = iter(loader.epoch(0))
next(batches)
if sys.argv[2] == "interrupt":
    raise KeyboardInterrupt
sys.exit(7)
"""


@pytest.mark.parametrize("how, status", [("exit", 7), ("interrupt", -2)])
def test_a_process_that_exits_in_the_middle_of_an_epoch_ends(images, how, status):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LEAVE, images, how], cwd=root, timeout=60, capture_output=True
    )
    assert done.returncode == status, done.stderr


def test_workers_are_limited_to_what_mindspore_accepts(source):
    assert len(arrays(loader(source, workers=512).epoch(0))) == 5
