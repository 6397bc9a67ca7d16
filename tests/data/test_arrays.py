"""CIFAR, MNIST and Fashion-MNIST from small files in their own formats."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import logging
import os
import re
import shutil

import numpy as np
import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.data import check_splits, open_source
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS
from mindcv_ghost.data.sets.sources import known_class_names
from mindcv_ghost.errors import DataError
from mindcv_ghost.run.parts import open_validation_set

FASHION = ARRAY_SETS["fashion_mnist"]
ORIGINAL = FASHION.system_folder
IDX_FILES = [file for files in FASHION.splits.values() for file in files]

CIFAR10_FILES = [f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]
CIFAR10_NAMES = [f"thing{k}" for k in range(10)]


def write_cifar(folder, files, images: int, coarse: bool = False):
    """Write files of so many images each, as the set from now on has in these files."""
    name = "cifar100" if coarse else "cifar10"
    counts = {**ARRAY_SETS[name].counts, **dict.fromkeys(files, images)}
    ARRAY_SETS[name] = dataclasses.replace(ARRAY_SETS[name], counts=counts)
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
        labels = np.array([0x801, images], ">u4").tobytes()
        labels += bytes(k % 10 for k in range(images))
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
    path = tmp_path / "data_batch_3.bin"
    whole = path.read_bytes()
    for size, found, question in (
        (0, "0 images (0 bytes)", "Is it truncated?"),
        (3073, "1 image (3,073 bytes)", "Is it truncated?"),
        (5000, "1 image and a part of another (5,000 bytes)", "Is it truncated?"),
        (9219, "3 images (9,219 bytes)", "Is it another file under this name?"),
    ):
        path.write_bytes((2 * whole)[:size])
        with pytest.raises(DataError) as caught:
            open_source("cifar10", str(tmp_path), "train")
        assert str(caught.value) == (
            f"{path} has {found}, and should have 2 (6,146 bytes). {question} Remove it, "
            "and --dataset_download true fetches it again."
        )
    write_mnist(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte has .* truncated"):
        open_source("mnist", str(tmp_path), "train")
    path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="isn't an IDX file"):
        open_source("mnist", str(tmp_path), "train")


def test_a_file_that_was_cut_between_two_images_is_refused_by_the_numbers_of_the_real_sets(
    tmp_path,
):
    for name, coarse in (("cifar10", False), ("cifar100", True)):
        real = ARRAY_SETS[name]
        for usage, wanted in (("train", 50_000), ("test", 10_000)):
            files = real.splits[usage]
            assert sum(real.counts[file] for file in files) == wanted
        write_cifar(
            tmp_path / name, [f for files in real.splits.values() for f in files], 2, coarse
        )
        ARRAY_SETS[name] = real
        with pytest.raises(DataError, match="test.*bin has 2 images .*, and should have 10,000 "):
            open_source(name, str(tmp_path / name), "test")


def test_labels_beyond_the_classes_are_refused(tmp_path):
    write_cifar(tmp_path, CIFAR10_FILES, 1)
    (tmp_path / "test_batch.bin").write_bytes(b"\x63" * 3073)
    with pytest.raises(DataError, match="labels from 99 to 99, legal are 0 to 9"):
        open_source("cifar10", str(tmp_path), "val")


def test_an_unknown_split_is_refused(tmp_path):
    with pytest.raises(DataError, match="no split 'extra': it has train and test"):
        open_source("cifar10", str(tmp_path), "extra")


@pytest.fixture
def system_folder(tmp_path, monkeypatch):
    """A folder in the place of the one that Debian's package fills."""
    folder = tmp_path / "system"
    changed = dataclasses.replace(FASHION, system_folder=str(folder))
    monkeypatch.setitem(ARRAY_SETS, "fashion_mnist", changed)
    return folder


def pack(folder, names=IDX_FILES):
    for name in names:
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()


@pytest.mark.parametrize("where", ["", "fashion-mnist"])
@pytest.mark.parametrize("packed", [[], IDX_FILES, IDX_FILES[:1]])
def test_idx_files_are_read_packed_or_not_in_the_folder_or_below(
    where, packed, tmp_path, system_folder
):
    folder = tmp_path / "data" / where
    write_mnist(folder)
    expected = open_source("mnist", str(folder), "train", in_channels=1)
    expected = [expected[k] for k in range(7)]
    pack(folder, packed)
    source = open_source("fashion_mnist", str(tmp_path / "data"), "train", in_channels=1)
    assert len(source) == 7 and source.kind == "fashion_mnist"
    for k, (image, label) in enumerate(expected):
        assert np.array_equal(source[k][0], image)
        assert source[k][1] == source.label_of(k) == label
    assert source.name_of(3) == "fashion_mnist/train[3]"
    val = open_source("fashion_mnist", str(tmp_path / "data"), "test", in_channels=1)
    assert check_splits(source, val, None) == 10


def test_a_packed_file_under_the_name_of_an_unpacked_one_is_unpacked(tmp_path, system_folder):
    write_mnist(tmp_path)
    pack(tmp_path)
    for name in IDX_FILES:
        (tmp_path / f"{name}.gz").rename(tmp_path / name)
    assert len(open_source("fashion_mnist", str(tmp_path), "train")) == 7


def test_class_names_are_known_without_the_files(tmp_path):
    names = known_class_names("fashion_mnist", str(tmp_path), ())
    assert len(names) == 10
    assert (names[0], names[6], names[9]) == ("T-shirt/top", "Shirt", "Ankle boot")
    write_mnist(tmp_path)
    assert open_source("fashion_mnist", str(tmp_path), "val").classes == names


def test_the_systems_files_are_read_where_the_folder_has_none(tmp_path, system_folder, caplog):
    write_mnist(system_folder)
    pack(system_folder)
    caplog.set_level(logging.INFO)
    data = tmp_path / "data"
    either = {"download": True, "system_files": True}
    assert len(open_source("fashion_mnist", str(data), "train", **either)) == 7
    told = f"Fashion-MNIST: read from {system_folder}, because {data} has none of its files"
    assert told in caplog.text
    assert not data.exists()  # nothing was downloaded
    # An incomplete folder was meant to be read, and isn't replaced silently.
    write_mnist(data)
    (data / IDX_FILES[3]).unlink()
    with pytest.raises(DataError, match=f"missing {IDX_FILES[3]} ") as caught:
        open_source("fashion_mnist", str(data), "train", system_files=True)
    assert f"remove what is there to read {system_folder} (Debian's package" in str(caught.value)
    with pytest.raises(DataError, match="mnist isn't complete"):
        open_source("mnist", str(tmp_path / "nowhere"), "train", system_files=True)


@pytest.mark.parametrize("installed", [True, False])
def test_the_systems_files_do_not_replace_those_of_a_folder_that_was_named(
    installed, tmp_path, system_folder
):
    if installed:
        write_mnist(system_folder)
    data = tmp_path / "wrong"
    with pytest.raises(DataError) as caught:
        open_source("fashion_mnist", str(data), "train")
    way = "leave it out to read {} (Debian's package dataset-fashion-mnist), or fetch them with"
    if not installed:
        way = "install Debian's package dataset-fashion-mnist into {} and leave --data_dir out, or"
    text = str(caught.value)
    assert text.startswith(f"fashion_mnist isn't complete in {data}: missing {IDX_FILES[0]}, ")
    assert f"(looked in {data / 'fashion-mnist'}, {data}). Point --data_dir at" in text
    assert way.format(system_folder) in text


def test_a_folder_is_named_by_the_command_line_and_not_by_a_recipe(tmp_path, system_folder):
    write_mnist(system_folder)
    (tmp_path / "a.yaml").write_text(
        f"dataset: fashion_mnist\ndata_dir: {tmp_path / 'none'}\nval_split: test\n"
    )
    words = ["--config", str(tmp_path / "a.yaml")]
    assert len(open_validation_set(load_config(words, script="validate"))[0]) == 7
    with pytest.raises(DataError, match=f"isn't complete in {tmp_path}: .* leave it out to read"):
        config = load_config([*words, "--data_dir", str(tmp_path)], script="validate")
        open_validation_set(config)


def spoil(folder, case: str) -> None:
    """Make one of the files of ``write_mnist`` unusable."""
    images, labels = folder / IDX_FILES[0], folder / IDX_FILES[1]
    if case == "truncated gzip":
        pack(folder)
        packed = folder / f"{IDX_FILES[0]}.gz"
        packed.write_bytes(packed.read_bytes()[:-100])
    elif case == "damaged gzip":
        pack(folder)
        packed = folder / f"{IDX_FILES[0]}.gz"
        content = bytearray(packed.read_bytes())
        content[len(content) // 2] ^= 255
        packed.write_bytes(content)
    elif case == "gzip of half a file":
        images.write_bytes(gzip.compress(images.read_bytes()[:-1]))
    elif case == "magic number":
        images.write_bytes(b"\0\0\x0d\x03" + images.read_bytes()[4:])
    elif case == "labels as images":
        shutil.copy(labels, images)
    elif case == "empty":
        labels.write_bytes(b"")
    elif case.startswith("a part of the"):
        labels.write_bytes(labels.read_bytes()[: 6 if case.endswith("header") else 3])
    elif case == "too long":
        images.write_bytes(images.read_bytes() + b"\n")
    elif case == "no images":
        images.write_bytes(np.array([0x803, 0, 28, 28], ">u4").tobytes())
    elif case == "a header of 2 ** 96 bytes":
        images.write_bytes(np.array([0x803, *[2**32 - 1] * 3], ">u4").tobytes())
    elif case == "label 10":
        labels.write_bytes(labels.read_bytes()[:-1] + b"\x0a")
    elif case == "counts":
        labels.write_bytes(np.array([0x801, 6], ">u4").tobytes() + bytes(6))
    elif case == "size":
        images.write_bytes(np.array([0x803, 7, 8, 98], ">u4").tobytes() + images.read_bytes()[16:])


SPOILT = {
    "truncated gzip": "train-images-idx3-ubyte.gz can't be unpacked: .* truncated. Remove it, and",
    "damaged gzip": "train-images-idx3-ubyte.gz can't be unpacked: .* fetches it again",
    "gzip of half a file": "train-images-idx3-ubyte has 5,503 bytes unpacked, and should have "
    "5,504 for the 7 x 28 x 28 images that its header tells of. Is it truncated[?] Rem",
    "too long": "has 5,505 bytes, and should have 5,504 .* Is it another file under this name[?] R",
    "magic number": "train-images-idx3-ubyte isn't an IDX file of images [(]MNIST's format[)]: it "
    "starts with 00000d03, legal is 00000803. Is it another file under this name[?] Remove",
    "labels as images": "starts with 00000801, legal is 00000803",
    "empty": "labels-idx1-ubyte has 0 bytes, fewer than the 8 of an IDX file's header for labels. "
    "Is it truncated[?] Remove it",
    "a part of the header": "labels-idx1-ubyte has 6 bytes, fewer than the 8 .* Is it truncated",
    "a part of the magic number": "labels-idx1-ubyte has 3 bytes, fewer than the 8 .* Is it tru",
    "no images": "train-images-idx3-ubyte has no images: its header tells of 0 x 28 x 28. Is it an",
    "a header of 2 ** 96 bytes": "has 16 bytes, and should have 79,228,162,.* Is it truncated[?]",
    "label 10": "train-labels-idx1-ubyte has labels from 0 to 10, legal are 0 to 9.* fetches it",
    "counts": "train-images-idx3-ubyte has 7 images, .*train-labels-idx1-ubyte 6 labels.* fetches",
    "size": "has images of 8 x 98 pixels; legal for Fashion-MNIST is 28 x 28. .* fetches it",
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_file_that_is_not_the_sets_is_named_with_what_is_legal(case, tmp_path, system_folder):
    write_mnist(tmp_path)
    spoil(tmp_path, case)
    with pytest.raises(DataError, match=SPOILT[case]) as caught:
        open_source("fashion_mnist", str(tmp_path), "train")
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_named(tmp_path, system_folder):
    write_mnist(tmp_path)
    (tmp_path / IDX_FILES[0]).chmod(0)
    with pytest.raises(DataError, match="can't be read: Permission denied. Check its permissions"):
        open_source("fashion_mnist", str(tmp_path), "train")


def test_mnists_files_are_not_taken_for_those_of_fashion_mnist(tmp_path, monkeypatch, caplog):
    write_mnist(tmp_path)

    def original(labels: bytes) -> None:
        digest = hashlib.md5(labels).hexdigest()
        changed = dataclasses.replace(FASHION, label_sums={"train": (7, digest)})
        monkeypatch.setitem(ARRAY_SETS, "fashion_mnist", changed)

    original(bytes(7))
    with pytest.raises(DataError, match="doesn't have the labels of Fashion-MNIST. .* own, e.g. "):
        open_source("fashion_mnist", str(tmp_path), "train")
    open_source("mnist", str(tmp_path), "train")
    assert caplog.text == ""
    original(bytes(range(7)))
    open_source("fashion_mnist", str(tmp_path), "train")
    assert caplog.text == ""
    open_source("mnist", str(tmp_path), "train")
    assert re.search(
        "labels of Fashion-MNIST, but is read as MNIST: --dataset fashion_", caplog.text
    )


@pytest.mark.skipif(not os.path.isdir(ORIGINAL), reason="dataset-fashion-mnist isn't installed")
def test_the_original_has_its_size_mean_and_deviation():
    train = open_source("fashion_mnist", ORIGINAL, "train", in_channels=1)
    test = open_source("fashion_mnist", ORIGINAL, "test", in_channels=1)
    assert (len(train), len(test)) == (60_000, 10_000)
    assert np.bincount([test.label_of(k) for k in range(10_000)]).tolist() == [1000] * 10
    (pixels,) = train.planes()
    counts = np.bincount(pixels.reshape(-1), minlength=256) / pixels.size
    mean = counts @ np.arange(256) / 255
    deviation = np.sqrt(counts @ (np.arange(256) / 255 - mean) ** 2)
    assert FASHION.mean == (pytest.approx(mean, abs=5e-5),)
    assert FASHION.std == (pytest.approx(deviation, abs=5e-5),)


@pytest.mark.parametrize("inside", [False, True])
def test_the_version_for_python_is_recognised(tmp_path, inside):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with pytest.raises(DataError, match="cifar-10-batches-py, the version for Python, isn't read"):
        open_source("cifar10", str(folder if inside else tmp_path), "train")
