"""Layout of an image folder: read correctly, or refused with all of its problems."""

from __future__ import annotations

import os
import shutil
import sys

import numpy as np
import pytest

from mindcv_ghost.data.sets.image_folder import FolderSource, class_folders, refuse_other_classes
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.data.sets.sources import check_splits, class_names, open_source
from mindcv_ghost.errors import DataError

from .conftest import class_counts, encoded, make_split, photograph


def message(folder, split="train", **options) -> str:
    with pytest.raises(DataError) as caught:
        open_source("imagenet", str(folder), split, **options)
    return str(caught.value)


def test_classes_are_sorted_as_mindspore_sorts_them(tmp_path):
    import mindspore.dataset as ds

    names = ["b", "B", "a10", "a2", "_x", "Ä", "é", "z"]
    make_split(tmp_path, dict.fromkeys(names, 1))
    theirs = ds.ImageFolderDataset(str(tmp_path), shuffle=False).get_class_indexing()
    source = FolderSource(str(tmp_path))
    assert {name: k for k, name in enumerate(source.classes)} == theirs


def test_images_come_sorted_with_the_label_of_their_folder(folder):
    source = open_source("folder", str(folder), "train")
    assert source.classes == ("ant", "bee", "cow")
    assert (len(source), source.num_classes, class_counts(source)) == (12, 3, (5, 4, 3))
    names = [source.name_of(k) for k in range(12)]
    assert names == sorted(names)
    assert names[5] == str(folder / "train" / "bee" / "000.jpg")
    labels = [source[k][1] for k in range(12)]
    assert labels == [0] * 5 + [1] * 4 + [2] * 3 == [source.label_of(k) for k in range(12)]
    assert source[5][0].tobytes() == (folder / "train" / "bee" / "000.jpg").read_bytes()


def test_an_images_format_is_detected_by_content_and_not_by_extension(folder):
    for name, kind in (("a.JPEG", "PNG"), ("b.Png", "JPEG"), ("c.webp", "WEBP"), ("d.TIF", "TIFF")):
        (folder / "train" / "ant" / name).write_bytes(encoded(photograph(1), kind))
    source = open_source("", str(folder), "train")
    assert class_counts(source) == (9, 4, 3)
    assert all(source[k][0].size for k in range(9))


def test_symbolic_links_to_images_and_folders_are_followed(folder, tmp_path):
    store = tmp_path / "store"
    make_split(store, {"dog": 2})
    os.symlink(store / "dog", folder / "train" / "dog")
    os.symlink(store / "dog" / "000.jpg", folder / "train" / "ant" / "link.jpg")
    source = open_source("imagenet", str(folder), "train")
    assert class_counts(source) == (6, 4, 3, 2)
    assert source[5][0].size == source[13][0].size


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_that_are_not_utf8_are_read_and_printed(folder):
    name = os.fsdecode(b"\xe9t\xe9.jpg")
    shutil.copy(folder / "train" / "ant" / "000.jpg", folder / "train" / "ant" / name)
    bad = os.fsdecode(b"\xffbad.jpg")
    (folder / "train" / "ant" / bad).write_bytes(b"")
    source = open_source("imagenet", str(folder), "train")
    assert class_counts(source)[0] == 7
    assert source[5][0].size  # "été" in Latin-1 sorts after the digits
    with pytest.raises(DataError) as caught:
        source[6]
    str(caught.value).encode("utf-8")
    assert "\\xffbad.jpg: is empty" in str(caught.value)
    assert printable(name) == "\\xe9t\\xe9.jpg"


def test_hidden_and_system_files_do_not_matter(folder):
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._000.jpg"):
        (folder / "train" / "ant" / name).write_bytes(b"x")
        (folder / "train" / name).write_bytes(b"x")
    (folder / "train" / ".ipynb_checkpoints").mkdir()
    (folder / "train" / "labels.csv").write_text("beside the class folders: nobody reads it")
    assert class_counts(open_source("imagenet", str(folder), "train")) == (5, 4, 3)


def test_the_error_for_a_missing_data_dir_lists_what_exists(tmp_path):
    make_split(tmp_path / "ImageNet" / "train", {"ant": 1})
    text = message(tmp_path / "imagenet")
    assert f"there is no folder {tmp_path}/imagenet (did you mean ImageNet?)" in text
    assert f"{tmp_path} has ImageNet/" in text


def test_the_error_for_a_missing_split_lists_what_exists(folder):
    text = message(folder, "valid")
    assert f"there is no folder {folder}/valid (did you mean val?)" in text
    assert "has train/, val/" in text


def test_a_file_instead_of_a_folder_is_reported(folder):
    (folder / "test").write_text("")
    assert f"{folder}/test is not a folder" in message(folder, "test")


def test_an_empty_class_folder_is_refused_by_name(folder):
    (folder / "train" / "elk").mkdir()
    (folder / "train" / "fox").mkdir()
    text = message(folder)
    assert "2 class folders without an image:\n  elk/\n  fox/\n" in text
    assert "remove it" in text and ".keep" in text


def test_a_class_folder_may_be_declared_empty(folder):
    (folder / "train" / "elk").mkdir()
    (folder / "train" / "elk" / ".keep").write_text("")
    assert class_counts(open_source("imagenet", str(folder), "train")) == (5, 4, 3, 0)


def test_no_images_at_all_is_refused(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    assert "not one image" in message(tmp_path)


def test_no_class_folders_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    assert "has no class folders. Expected" in message(tmp_path)


def test_images_outside_class_folders_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "one.jpg").write_bytes(encoded(photograph(1)))
    assert "holds 1 image outside any class folder" in message(tmp_path)


def test_all_problems_of_a_folder_are_reported_together_ten_of_a_kind(folder):
    for k in range(12):
        (folder / "train" / "ant" / f"readme{k:02d}.txt").write_text("not an image")
    (folder / "train" / "bee" / "more").mkdir()
    (folder / "train" / "elk").mkdir()
    text = message(folder)
    assert "12 stray files (no image):\n  ant/readme00.txt\n" in text
    assert "readme09.txt" in text and "readme10.txt" not in text and "and 2 more" in text
    assert "1 nested folder (its images would be left out):\n  bee/more/" in text
    assert "1 class folder without an image:\n  elk/" in text


def test_imagenets_flat_validation_folder_is_refused_with_the_command_that_sorts_it(tmp_path):
    (tmp_path / "val").mkdir()
    for k in (1, 2, 3):
        (tmp_path / "val" / f"ILSVRC2012_val_{k:08d}.JPEG").write_bytes(b"")
    text = message(tmp_path, "val")
    assert "3 images of ImageNet's validation set" in text
    assert (
        f"python -m mindcv_ghost.data.imagenet sort-val --val_dir {tmp_path}/val "
        "--devkit ILSVRC2012_devkit_t12.tar.gz" in text
    )


def test_a_class_that_is_missing_in_val_is_named_and_shifts_no_label(folder):
    shutil.rmtree(folder / "val" / "bee")
    train = open_source("imagenet", str(folder), "train")
    val = open_source("imagenet", str(folder), "val")
    with pytest.raises(DataError) as caught:
        check_splits(train, val, None)
    assert "1 missing in validation: bee" in str(caught.value)
    assert f"{folder}/val/bee/.keep" in str(caught.value)

    (folder / "val" / "bee").mkdir()
    (folder / "val" / "bee" / ".keep").write_text("")
    val = open_source("imagenet", str(folder), "val")
    assert check_splits(train, val, None) == 3
    assert [val[k][1] for k in range(len(val))] == [0, 0, 0, 2, 2]


def test_a_class_that_only_val_has_is_named(folder):
    make_split(folder / "val", {"elk": 1})
    train = open_source("imagenet", str(folder), "train")
    with pytest.raises(DataError, match="1 only in validation: elk"):
        check_splits(train, open_source("imagenet", str(folder), "val"), 10)


def test_comparing_the_classes_of_two_splits_reads_each_list_twice_however_many_there_are():
    class Names(list):
        readings = 0

        def __iter__(self):
            self.readings += 1
            return super().__iter__()

    # ImageNet-21K has 21,841 classes.
    train, val = (Names(f"n{k:08d}" for k in range(2000)) for _ in range(2))
    refuse_other_classes("train", train, "val", val)
    assert (train.readings, val.readings) == (2, 2)


def test_validation_alone_takes_its_labels_from_the_training_folders(folder):
    names = class_names("imagenet", str(folder), "train")
    assert names == ("ant", "bee", "cow")
    shutil.rmtree(folder / "val" / "ant")
    assert "1 missing in validation: ant" in message(folder, "val", classes=names)
    assert class_names("imagenet", str(folder), "nothing") is None
    assert class_names("cifar10", str(folder), "train") is None


def test_too_few_outputs_are_refused_and_extra_ones_are_logged(folder, caplog):
    train = open_source("imagenet", str(folder), "train")
    with pytest.raises(DataError, match=r"num_classes is 2, but .*train has 3 classes"):
        check_splits(train, None, 2)
    assert check_splits(train, None, None) == 3
    assert check_splits(None, train, 3) == 3
    assert not caplog.records
    assert check_splits(train, None, 1000) == 1000
    assert "has 3 classes: labels 0 to 2 are used" in caplog.text


def test_the_error_for_a_misspelt_set_has_the_nearest_name(folder):
    with pytest.raises(DataError, match="no 'imagent'; did you mean 'imagenet'"):
        open_source("imagent", str(folder), "train")


def test_a_folder_cannot_be_downloaded(folder):
    assert "imagenet can't be downloaded" in message(folder, download=True)


def test_a_bad_image_is_reported_with_its_reason_and_recorded(folder):
    path = folder / "train" / "ant" / "003.jpg"
    path.write_bytes(path.read_bytes()[:200])
    source = open_source("imagenet", str(folder), "train")
    with pytest.raises(DataError, match="--on_bad_image skip") as caught:
        source[3]
    assert str(path) in str(caught.value)
    assert list(source.bad) == [str(path)]


@pytest.mark.parametrize("kind", ["vanished", "folder", "pipe"])
def test_what_is_not_a_regular_file_is_a_bad_image_and_does_not_hang(folder, kind):
    path = folder / "train" / "ant" / "003.jpg"
    source = open_source("imagenet", str(folder), "train")
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DataError, match=str(path)):
        source[3]


def test_a_split_may_be_the_data_dir_itself(folder):
    assert len(open_source("folder", str(folder / "train"), "")) == 12


def test_a_million_names_are_stored_as_bytes_and_not_as_objects(folder):
    source = open_source("imagenet", str(folder), "train")
    assert all(names.dtype.kind == "S" for names in source._names)
    assert sum(names.nbytes for names in source._names) == 12 * len("000.jpg")


def test_class_folders_are_listed_without_listing_their_images(folder):
    (folder / "train" / "ant" / "stray.txt").write_text("")
    assert class_folders(str(folder / "train")) == ["ant", "bee", "cow"]
    assert np.all([name.islower() for name in class_folders(str(folder / "train"))])
