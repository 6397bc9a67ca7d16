"""The digits: written once, whole, and always the same."""

from __future__ import annotations

import builtins
import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.data import check_splits, open_source
from mindcv_ghost.data.sets.digits import write_digits
from mindcv_ghost.errors import DataError

from .conftest import class_counts

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_digits(str(folder))
    return folder


def test_1797_scans_are_split_with_360_held_out(digits):
    train = open_source("digits", str(digits), "train")
    val = open_source("digits", str(digits), "val")
    assert (len(train), len(val)) == (1437, 360)
    assert check_splits(train, val, 10) == 10
    assert train.classes == tuple("0123456789")
    assert class_counts(val) == (36, 36, 35, 37, 36, 37, 36, 36, 35, 36)
    names = {source.name_of(k)[-8:] for source in (train, val) for k in range(len(source))}
    assert len(names) == 1797


def test_the_split_is_the_same_everywhere(digits):
    names = sorted(str(path.relative_to(digits)) for path in digits.glob("digits/val/*/*.png"))
    assert hashlib.sha256("\n".join(names).encode()).hexdigest() == (
        "0852f5c025bc8d2a5ffe11eb148a447b2df47951e60ab855c02ba1ecb5f20c75"
    )


def test_a_scan_keeps_its_pixels(digits):
    from sklearn.datasets import load_digits

    (path,) = digits.glob("digits/*/4/0100.png")
    image = Image.open(path)
    assert image.size == (64, 64)
    small = np.asarray(image.resize((8, 8), Image.BOX), float)
    expected = load_digits().images[100] * 255 / 16
    assert np.corrcoef(small.ravel(), expected.ravel())[0, 1] > 0.97  # bicubic smooths a little


def test_the_second_call_writes_nothing(digits):
    before = (digits / "digits").stat().st_mtime_ns
    assert write_digits(str(digits)) == str(digits / "digits")
    assert write_digits(str(digits / "digits")) == str(digits / "digits")
    assert (digits / "digits").stat().st_mtime_ns == before


def test_ranks_that_write_at_the_same_time_do_not_collide(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        folders = list(pool.map(write_digits, [str(tmp_path)] * 3))
    assert set(folders) == {str(tmp_path / "digits")}
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]
    assert len(open_source("digits", str(tmp_path), "val")) == 360


def test_a_write_that_is_killed_leaves_no_partial_folder(tmp_path, monkeypatch):
    def killed(self, *args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            write_digits(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert len(open_source("digits", str(tmp_path), "train")) == 1437


def test_the_default_data_dir_is_not_filled_with_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert write_digits("./") == "data/digits"
    assert (tmp_path / "data" / "digits" / "train" / "7").is_dir()


def test_a_folder_with_other_content_is_not_touched(tmp_path):
    (tmp_path / "digits" / "mine").mkdir(parents=True)
    with pytest.raises(DataError, match="isn't the digits"):
        write_digits(str(tmp_path))
    assert [path.name for path in (tmp_path / "digits").iterdir()] == ["mine"]


@pytest.mark.parametrize("split", ["train", "val"])
def test_digits_that_lack_an_image_are_refused_and_not_touched(digits, tmp_path, split):
    copy = tmp_path / "digits"
    shutil.copytree(digits / "digits", copy)
    assert write_digits(str(tmp_path)) == str(copy)
    next(copy.glob(f"{split}/3/*.png")).unlink()
    with pytest.raises(DataError, match="1,437 images in train and 360 in val"):
        write_digits(str(tmp_path))
    assert len(list(copy.glob("*/*/*.png"))) == 1796


def test_the_error_names_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="can't be written to"):
        write_digits(str(tmp_path / "file"))


def test_without_scikit_learn_the_error_has_the_install_command(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        write_digits(str(tmp_path))
