"""CIFAR and MNIST as image files in class folders."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.data import open_source
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.sources import check_splits, fingerprint, known_class_names
from mindcv_ghost.errors import DataError

from .test_arrays import write_mnist


def write_folders(root, names, shape=(32, 32, 3), splits=("train", "test"), images=2):
    """Write PNG files; return split -> their pixels in the order of the sorted names."""
    draw = np.random.default_rng(0)
    written = {}
    for split in splits:
        pixels = draw.integers(0, 256, (len(names), images, *shape), np.uint8)
        for name, some in zip(sorted(names), pixels):
            (root / split / name).mkdir(parents=True)
            for number, one in enumerate(some):
                Image.fromarray(one).save(root / split / name / f"{number:04}.png")
        written[split] = pixels.reshape(-1, *shape)
    return written


@pytest.fixture
def cifar(tmp_path):
    return tmp_path, write_folders(tmp_path, [f"thing{k}" for k in range(10)])


def test_pixels_labels_classes_and_names_are_those_of_the_folders(cifar):
    folder, pixels = cifar
    assert known_class_names("cifar10", str(folder), ()) == tuple(f"thing{k}" for k in range(10))
    source = open_source("cifar10", str(folder), "train")
    assert (len(source), source.num_classes, source.kind) == (20, 10, "cifar10")
    assert source.classes == tuple(f"thing{k}" for k in range(10))
    for index in range(20):
        image, label = source[index]
        assert np.array_equal(image, pixels["train"][index])
        assert label == source.label_of(index) == index // 2
    assert source.name_of(3) == str(folder / "train" / "thing1" / "0001.png")
    for split in ("test", "val"):
        assert np.array_equal(open_source("cifar10", str(folder), split)[0][0], pixels["test"][0])
    assert check_splits(source, open_source("cifar10", str(folder), "test"), None) == 10


def test_val_stands_for_test(tmp_path):
    pixels = write_folders(tmp_path, list("0123456789"), splits=("train", "val"))
    assert np.array_equal(open_source("cifar10", str(tmp_path), "test")[5][0], pixels["val"][5])


def test_other_files_are_another_set_for_a_run_that_goes_on(cifar, tmp_path_factory):
    first = fingerprint(open_source("cifar10", str(cifar[0]), "train"))
    other = tmp_path_factory.mktemp("moved")
    write_folders(other, [f"thing{k}" for k in range(10)])
    assert fingerprint(open_source("cifar10", str(other), "train")) == first
    (other / "train" / "thing0" / "0001.png").rename(other / "train" / "thing0" / "other.png")
    assert fingerprint(open_source("cifar10", str(other), "train")) != first


def test_the_set_s_own_files_come_first(cifar):
    folder, _ = cifar
    (folder / "test_batch.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match="missing data_batch_1.bin"):
        open_source("cifar10", str(folder), "test")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_sets_take_grey_images_in_any_mode_and_repeat_them_for_three_channels(tmp_path, mode):
    pixels = write_folders(tmp_path, list("0123456789"), (28, 28))["train"]
    for path in tmp_path.rglob("*.png"):
        Image.open(path).convert(mode).save(path)
    for channels in (1, 3):
        image, label = open_source("mnist", str(tmp_path), "train", in_channels=channels)[7]
        assert image.shape == (28, 28, channels) and label == 3
        assert all(np.array_equal(image[..., c], pixels[7]) for c in range(channels))


def test_grey_sets_take_no_colours(tmp_path):
    write_folders(tmp_path, list("0123456789"), (28, 28, 3))
    with pytest.raises(DataError, match="28 x 28 pixels, coloured; images of MNIST have 28 x 28, "):
        open_source("mnist", str(tmp_path), "train", in_channels=1)


@pytest.mark.parametrize("numbered", [False, True])
def test_labels_are_the_set_s_own_where_folders_have_its_names_or_numbers(tmp_path, numbered):
    own = ARRAY_SETS["fashion_mnist"].classes
    folders = list("0123456789") if numbered else [name.replace("/", "_") for name in own]
    pixels = write_folders(tmp_path, folders, (28, 28), images=1)["train"]
    source = open_source("fashion_mnist", str(tmp_path), "train", in_channels=1)
    assert source.classes == known_class_names("fashion_mnist", str(tmp_path), ()) == own
    for label, name in enumerate(folders):
        image, found = source[label]
        assert found == label and source.name_of(label).endswith(f"{name}/0000.png")
        assert np.array_equal(image[..., 0], pixels[sorted(folders).index(name)])


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    write_folders(tmp_path, [str(k) for k in range(100)], images=1)
    source = open_source("cifar100", str(tmp_path), "test")
    assert source.name_of(10).endswith("/10/0000.png") and source.label_of(10) == 10


def test_other_names_than_the_set_s_are_refused_where_it_has_names(tmp_path):
    write_folders(tmp_path, [f"thing{k}" for k in range(10)], (28, 28))
    with pytest.raises(DataError, match="classes of Fashion-MNIST are T-shirt/top, .* or 0 to 9"):
        open_source("fashion_mnist", str(tmp_path), "train")


def test_a_missing_split_and_classes_of_one_split_alone_are_named(cifar):
    folder, _ = cifar
    (folder / "test" / "thing3").rename(folder / "test" / "kitten")
    for split in ("train", "test"):
        with pytest.raises(DataError, match="(?s)missing in validation: thing3.*only in .*kitten"):
            open_source("cifar10", str(folder), split)
    shutil.rmtree(folder / "test")
    with pytest.raises(DataError, match=r"class folders in .*/train, but there is no .*/test: "):
        open_source("cifar10", str(folder), "train", download=True)


@pytest.mark.parametrize("other", ["test", "train", "val"])
def test_another_folder_of_the_name_of_a_split_is_passed_over(tmp_path, monkeypatch, other):
    (tmp_path / other / "unit").mkdir(parents=True)
    (tmp_path / other / "run.sh").write_text("")
    with pytest.raises(DataError) as caught:
        open_source("cifar10", str(tmp_path), "train")
    assert f"{tmp_path / other} has 1 class folder; CIFAR-10 has 10. Images of" in str(caught.value)
    assert "fetch them with --dataset_download true" in str(caught.value)

    def download(name, folder, **_):
        write_mnist(tmp_path)

    monkeypatch.setattr("mindcv_ghost.data.sets.download.download", download)
    assert len(open_source("mnist", str(tmp_path), "train", download=True)) == 7


def test_a_folder_test_that_is_none_of_the_splits_does_not_hide_val(tmp_path):
    (tmp_path / "test" / "unit").mkdir(parents=True)
    pixels = write_folders(tmp_path, list("0123456789"), splits=("train", "val"))
    assert np.array_equal(open_source("cifar10", str(tmp_path), "test")[5][0], pixels["val"][5])


def test_other_sizes_other_numbers_of_classes_and_broken_files_are_named(cifar):
    folder, _ = cifar
    path = folder / "train" / "thing4" / "0000.png"
    Image.new("RGB", (30, 20)).save(path)
    with pytest.raises(DataError, match=r"thing4/0000.png has 20 x 30 pixels; .* have 32 x 32"):
        open_source("cifar10", str(folder), "train")
    path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"thing4/0000.png: is not an image .*\nRepair or remove"):
        open_source("cifar10", str(folder), "train")
    with pytest.raises(DataError, match="has 10 class folders; CIFAR-100 has 100"):
        open_source("cifar100", str(folder), "test")


def test_training_takes_them_through_the_padded_crop_of_the_native_loader(cifar):
    from mindcv_ghost.data.native.array_images import train_arrays
    from mindcv_ghost.data.transforms.factory import train_transforms
    from mindcv_ghost.data.transforms.settings import Augment

    folder, pixels = cifar
    source = open_source("cifar10", str(folder), "train")
    augment = Augment(image_resize=32, hflip=0.0)
    images = train_arrays(source, train_transforms("cifar10", augment))
    index, crops = np.array([5] * 400), set()
    out = images.allocate(400)
    assert images.decode_batch(index, np.arange(400), out) == []
    padded = np.pad(pixels["train"][5], ((4, 4), (4, 4), (0, 0))).astype(np.float64) / 255
    for image in out:
        values = image.transpose(1, 2, 0) * (0.2023, 0.1994, 0.2010) + (0.4914, 0.4822, 0.4465)
        found = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if np.abs(padded[y : y + 32, x : x + 32] - values).max() < 1e-3
        ]
        assert len(found) == 1
        crops.update(found)
    assert len(crops) > 70  # of 81
