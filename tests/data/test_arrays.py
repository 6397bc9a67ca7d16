"""CIFAR and MNIST from small files in their own formats."""

from __future__ import annotations

import numpy as np
import pytest

from mindcv_ghost.data import open_source
from mindcv_ghost.errors import DataError

CIFAR10_FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
CIFAR10_NAMES = [f"thing{k}" for k in range(10)]


def write_cifar(folder, files, images: int, coarse: bool = False):
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for name in files:
        records = draw.integers(0, 256, (images, 3073 + coarse), np.uint8)
        records[:, : 1 + coarse] = draw.integers(0, 10, (images, 1 + coarse))
        (folder / name).write_bytes(records.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")


def write_mnist(folder, images: int = 7):
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix in ("train", "t10k"):
        header = np.array([0x803, images, 28, 28], ">u4").tobytes()
        pixels = draw.integers(0, 256, (images, 28, 28), np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = np.array([0x801, images], ">u4").tobytes() + bytes(range(images))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)


def theirs(dataset):
    rows = dataset.create_dict_iterator(num_epochs=1, output_numpy=True)
    return [(row["image"], int(row.get("label", row.get("fine_label")))) for row in rows]


def assert_starts_like(source, expected):
    for k, (image, label) in enumerate(expected):
        mine = source[k]
        assert np.array_equal(mine[0], image) and mine[0].dtype == np.uint8
        assert mine[1] == label == source.label_of(k)


WHOLE = 10_000  # the only number of images that MindSpore's reader accepts


def test_cifar10_is_read_as_mindspore_reads_it(tmp_path):
    import mindspore.dataset as ds

    write_cifar(tmp_path, CIFAR10_FILES[:5], 4)
    write_cifar(tmp_path, CIFAR10_FILES[5:], WHOLE)
    for split in ("val", "test"):
        source = open_source("cifar10", str(tmp_path), split)
        expected = theirs(ds.Cifar10Dataset(str(tmp_path), "test", shuffle=False, num_samples=60))
        assert_starts_like(source, expected)
        assert len(source) == WHOLE
        assert source.classes == tuple(CIFAR10_NAMES) and source.num_classes == 10
        assert source.name_of(3) == "cifar10/test[3]"


def test_cifar10s_training_files_are_concatenated_in_order(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 3)
    source = open_source("cifar10", str(tmp_path), "train")
    assert len(source) == 15
    for k in range(15):
        record = (tmp_path / f"data_batch_{k // 3 + 1}.bin").read_bytes()[k % 3 * 3073 :][:3073]
        image, label = source[k]
        assert label == record[0]
        assert image.transpose(2, 0, 1).tobytes() == record[1:]


def test_cifar100_has_the_fine_labels(tmp_path):
    import mindspore.dataset as ds

    write_cifar(tmp_path, ["train.bin"], 2, coarse=True)
    write_cifar(tmp_path, ["test.bin"], WHOLE, coarse=True)
    source = open_source("cifar100", str(tmp_path), "val")
    expected = theirs(ds.Cifar100Dataset(str(tmp_path), "test", shuffle=False, num_samples=60))
    assert_starts_like(source, expected)
    assert source.num_classes == 100


def test_mnist_is_read_as_mindspore_reads_it(tmp_path):
    import mindspore.dataset as ds

    write_mnist(tmp_path)
    source = open_source("mnist", str(tmp_path), "train", in_channels=1)
    assert_starts_like(source, theirs(ds.MnistDataset(str(tmp_path), "train", shuffle=False)))
    assert len(source) == 7
    wide = open_source("mnist", str(tmp_path), "test")
    assert wide[2][0].shape == (28, 28, 3)
    assert np.ptp(wide[2][0].astype(int), axis=2).max() == 0


def test_files_are_found_where_a_download_puts_them(tmp_path):
    write_cifar(tmp_path / "cifar-10-batches-bin", CIFAR10_FILES, 1)
    assert len(open_source("cifar10", str(tmp_path), "train")) == 5


def test_an_error_names_the_missing_files_and_the_remedy(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES[:3], 1)
    with pytest.raises(DataError) as caught:
        open_source("cifar10", str(tmp_path), "train")
    assert "missing data_batch_4.bin, data_batch_5.bin, test_batch.bin" in str(caught.value)
    assert "--dataset_download true" in str(caught.value)
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte"):
        open_source("mnist", str(tmp_path / "nowhere"), "train")


def test_a_truncated_file_is_named(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 2)
    (tmp_path / "data_batch_3.bin").write_bytes(b"\0" * 5000)
    with pytest.raises(DataError, match=r"data_batch_3.bin has 5,000 bytes.*truncated"):
        open_source("cifar10", str(tmp_path), "train")
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte has .* truncated"):
        open_source("mnist", str(tmp_path), "train")
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="isn't an IDX file"):
        open_source("mnist", str(tmp_path), "train")


def test_labels_beyond_the_classes_are_refused(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 2)
    (tmp_path / "test_batch.bin").write_bytes(b"\x63" * 3073)
    with pytest.raises(DataError, match="labels from 99 to 99, legal are 0 to 9"):
        open_source("cifar10", str(tmp_path), "val")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="no split 'extra': it has train and test"):
        open_source("cifar10", str(tmp_path), "extra")
