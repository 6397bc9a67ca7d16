"""Small images in memory by the native loader: MindCV's transforms, random by seed and place."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from mindcv_ghost.data import Augment, TrainLoader, open_source
from mindcv_ghost.data.transforms.factory import eval_transforms

from .test_arrays import CIFAR10_FILES, write_cifar, write_mnist

pytestmark = pytest.mark.skipif(
    not any(shutil.which(name) for name in ("c++", "g++", "clang++")), reason="no C++ compiler"
)
INFO = "native loader, from memory"


def loader(source, side=32, **settings) -> TrainLoader:
    settings = {"batch_size": 4, "num_classes": 10, **settings}
    return TrainLoader(source, Augment(image_resize=side), **settings)


def batches(ours: TrainLoader, epoch: int = 0, skip: int = 0) -> list:
    return list(ours.epoch(epoch, skip).create_tuple_iterator(output_numpy=True))


def test_every_image_is_a_padded_crop_of_mindcvs_normalised_image(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 20)
    source = open_source("cifar10", str(tmp_path), "train")
    ours, seen = loader(source), set()
    assert ours.backend_info == INFO and ours.native
    normalise = eval_transforms("cifar10", Augment(image_resize=32))
    places = ours.indices(0).reshape(-1, 4)
    for indices, (images, labels) in zip(places, batches(ours)):
        assert images.shape == (4, 3, 32, 32) and images.dtype == np.float32
        for index, image, label in zip(indices, images, labels):
            pixels, expected_label = source[int(index)]
            assert label == expected_label
            padded = np.pad(pixels, ((4, 4), (4, 4), (0, 0)))
            for op in normalise:
                padded = op(padded) if "Resize" not in type(op).__name__ else padded
            crops = {
                (top, left, flip): padded[:, top : top + 32, left : left + 32][:, :, ::flip]
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
