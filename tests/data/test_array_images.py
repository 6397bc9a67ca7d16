"""Small images in memory by the native loader: MindCV's transforms, random by seed and place."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mindcv_ghost.data import Augment, EvalLoader, TrainLoader, open_source
from mindcv_ghost.data.transforms.factory import eval_transforms
from mindcv_ghost.errors import DataError

from .test_arrays import CIFAR10_FILES, write_cifar, write_mnist

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)
INFO = "native loader, from memory"


def write(name: str, folder, images: int) -> None:
    if name == "cifar10":
        write_cifar(folder, CIFAR10_FILES, images)
    else:
        write_mnist(folder, images)


def loader(source, side=32, augment=None, **settings) -> TrainLoader:
    settings = {"batch_size": 4, "num_classes": 10, **settings}
    return TrainLoader(source, Augment(image_resize=side, **(augment or {})), **settings)


def batches(ours: TrainLoader, epoch: int = 0, skip: int = 0) -> list:
    return list(ours.epoch(epoch, skip).create_tuple_iterator(output_numpy=True))


@pytest.mark.parametrize(
    ("name", "side", "channels"), [("cifar10", 32, 3), ("fashion_mnist", 28, 1)]
)
def test_every_image_is_a_padded_crop_of_the_normalised_image(name, side, channels, tmp_path):
    write(name, tmp_path, 20)
    source = open_source(name, str(tmp_path), "train", in_channels=channels)
    ours, seen = loader(source, side), set()
    assert ours.backend_info == INFO and ours.native
    normalise = eval_transforms(name, Augment(image_resize=side), channels)
    for epoch in range(1 if name == "cifar10" else 12):
        places = ours.indices(epoch).reshape(-1, 4)
        for indices, (images, labels) in zip(places, batches(ours, epoch)):
            assert images.shape == (4, channels, side, side) and images.dtype == np.float32
            for index, image, label in zip(indices, images, labels):
                pixels, expected_label = source[int(index)]
                assert label == expected_label
                padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
                for op in normalise:
                    padded = op(padded) if "Resize" not in type(op).__name__ else padded
                crops = {
                    (top, left, flip): padded[:, top : top + side, left : left + side][:, :, ::flip]
                    for top in range(9)
                    for left in range(9)
                    for flip in (1, -1)
                }
                found = [where for where, crop in crops.items() if np.array_equal(crop, image)]
                assert len(found) == 1
                seen.add(found[0])
    tops, lefts, flips = (set(each) for each in zip(*seen))
    assert tops == lefts == set(range(9)) and flips == {1, -1}


def test_an_image_depends_on_seed_and_place_alone(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 4)
    source = open_source("cifar10", str(tmp_path), "train")
    whole, threads = batches(loader(source), 3), batches(loader(source, workers=2), 3)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(whole, threads))
    tail = batches(loader(source), 3, skip=2)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(whole[2:], tail))
    assert not np.array_equal(whole[0][0], batches(loader(source, seed=43), 3)[0][0])
    ranks = [batches(loader(source, batch_size=2, rank=rank, size=2), 3) for rank in (0, 1)]
    for k, (images, labels) in enumerate(whole):
        for rank in (0, 1):
            assert np.array_equal(ranks[rank][k][0], images[rank::2])
            assert np.array_equal(ranks[rank][k][1], labels[rank::2])


@pytest.mark.parametrize("channels", [1, 3])
def test_mnist_has_mindcvs_pixels_in_one_channel_or_three(tmp_path, channels):
    write_mnist(tmp_path)
    source = open_source("mnist", str(tmp_path), "train", in_channels=channels)
    ours = loader(source, side=28, batch_size=2, shuffle=False)
    assert ours.backend_info == INFO
    for position, image in enumerate(np.concatenate([images for images, _ in batches(ours)])):
        expected, _ = source[position]
        for op in eval_transforms("mnist", Augment(image_resize=28), channels):
            expected = op(expected)
        assert np.array_equal(image, expected)


def test_enlarged_and_grey_images_stay_with_mindspores_pipeline(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 4)
    large = loader(open_source("cifar10", str(tmp_path), "train"), side=64)
    assert large.backend_info == "MindSpore's image pipeline: images of 32 x 32 are resized"
    grey = loader(open_source("cifar10", str(tmp_path), "train", in_channels=1))
    assert "ConvertColor isn't one of the native loader's operations" in grey.backend_info


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist"])
def test_hflip_is_the_probability_of_a_flip(name, tmp_path):
    write(name, tmp_path, 8)
    source = open_source(name, str(tmp_path), "train", in_channels=3)
    side = source[0][0].shape[0]
    plain, flipped, default = (
        np.concatenate([images for images, _ in batches(loader(source, side, {"hflip": hflip}))])
        for hflip in (0.0, 1.0, 0.5)
    )
    assert np.array_equal(plain, flipped[..., ::-1])
    kinds = [
        (np.array_equal(image, a), np.array_equal(image, b))
        for image, a, b in zip(default, plain, flipped)
    ]
    assert {(True, False), (False, True)} == set(kinds)


AUGMENTS = {
    "randaug": {"auto_augment": "randaug-m9-mstd0.5"},
    "autoaug": {"auto_augment": "autoaug-original"},
    "trivialaugwide": {"auto_augment": "trivialaugwide"},
    "erasing": {"re_prob": 0.9},
    "noise": {"re_prob": 0.9, "re_value": "random"},
    "all": {"auto_augment": "randaug-m9-mstd0.5", "re_prob": 0.5, "mixup": 0.2, "cutmix": 1.0},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("case", AUGMENTS)
def test_both_backends_augment_a_digit_alike(case, channels, tmp_path):
    # MNIST isn't cropped at random, so the backends draw the same numbers.
    write_mnist(tmp_path, 10)
    source = open_source("mnist", str(tmp_path), "train", in_channels=channels)
    settings = {"side": 28, "augment": AUGMENTS[case], "batch_size": 2}
    native, theirs = (loader(source, native=native, **settings) for native in (True, False))
    plain = loader(source, side=28, batch_size=2)
    assert (native.native, theirs.native) == (True, False)
    changed = 0
    for epoch in range(2):
        epochs = (batches(each, epoch) for each in (native, theirs, plain))
        for ours, expected, untouched in zip(*epochs):
            assert ours[0].shape == (2, channels, 28, 28)
            assert np.array_equal(ours[0], expected[0]) and np.array_equal(ours[1], expected[1])
            changed += not np.array_equal(ours[0], untouched[0])
    assert changed > 3


def test_grey_and_colour_digits_are_augmented_alike_by_a_grey_policy(tmp_path):
    write_mnist(tmp_path, 10)
    grey, colour = (
        open_source("mnist", str(tmp_path), "train", in_channels=channels) for channels in (1, 3)
    )
    settings = {"side": 28, "augment": {"auto_augment": "randaug-m9-mstd0.5"}}
    for one, three in zip(batches(loader(grey, **settings)), batches(loader(colour, **settings))):
        assert np.array_equal(one[0], three[0][:, :1])


def test_an_erasing_value_must_fit_the_channels(tmp_path):
    write_mnist(tmp_path, 10)
    source = open_source("fashion_mnist", str(tmp_path), "train", in_channels=1)
    with pytest.raises(DataError, match="re_value is .*images of 1 channel are one number, or"):
        loader(source, 28, {"re_prob": 0.5, "re_value": [1.0, 2.0, 3.0]})
    three = open_source("fashion_mnist", str(tmp_path), "train", in_channels=3)
    loader(three, 28, {"re_prob": 0.5, "re_value": [1.0, 2.0, 3.0]})


def test_an_augmented_image_depends_on_seed_and_place_alone(tmp_path):
    write_mnist(tmp_path, 10)
    source = open_source("fashion_mnist", str(tmp_path), "train", in_channels=1)
    settings = {"side": 28, "augment": AUGMENTS["all"], "batch_size": 2}
    whole, threads = (batches(loader(source, workers=n, **settings), 3) for n in (1, 2))
    tail = batches(loader(source, **settings), 3, skip=2)
    assert len(whole) == 5 and len(tail) == 3
    for expected, found in [*zip(whole, threads), *zip(whole[2:], tail)]:
        assert all(np.array_equal(a, b) for a, b in zip(expected, found))


@pytest.mark.parametrize(
    ("name", "side", "channels"),
    [("cifar10", 32, 3), ("mnist", 28, 1), ("mnist", 28, 3), ("fashion_mnist", 28, 1)],
)
def test_validation_has_mindspores_pixels_every_image_once_on_any_ranks(
    name, side, channels, tmp_path
):
    write(name, tmp_path, 7)
    source = open_source(name, str(tmp_path), "val", in_channels=channels)
    for size in (1, 2):
        seen = []
        for rank in range(size):
            settings = {"batch_size": 2, "rank": rank, "size": size}
            loaders = [
                EvalLoader(source, Augment(image_resize=side), native=native, **settings)
                for native in (True, False)
            ]
            assert loaders[0].backend_info == INFO
            pairs = list(zip(*(each.batches() for each in loaders)))
            assert len(pairs) == loaders[0].steps
            for ours, theirs in pairs:
                assert all(np.array_equal(a.asnumpy(), b.asnumpy()) for a, b in zip(ours, theirs))
                seen += [
                    image.tobytes() for image, valid in zip(ours[0].asnumpy(), ours[2]) if valid
                ]
        assert len(seen) == len(set(seen)) == 7
