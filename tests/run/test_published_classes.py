"""Data whose labels mean other classes than the published network's are refused."""

from __future__ import annotations

import dataclasses

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.errors import DataError
from mindcv_ghost.run.parts import open_validation_set

from ..data.conftest import make_split

CLASSES = ("ant", "bee", "cow")


@pytest.fixture
def config(tmp_path):
    make_split(tmp_path / "val", dict.fromkeys(CLASSES, 1))
    return load_config(["--data_dir", str(tmp_path), "--num_classes", "3"], script="validate")


def opened(config, *names: str):
    return open_validation_set(dataclasses.replace(config, class_names=names))


@pytest.mark.parametrize("names", [CLASSES, (), (*CLASSES, "dog")])
def test_the_same_names_more_of_them_or_none_are_right(config, names):
    _, num_classes, found = opened(config, *names)
    assert (num_classes, found) == (3, CLASSES)


def test_another_order_is_refused(config):
    with pytest.raises(DataError, match="class 1 of the network is cow, of the set bee: the lab"):
        opened(config, "ant", "cow", "bee")


def test_a_set_without_some_of_the_classes_is_refused(config):
    with pytest.raises(DataError, match="class 0 of the network is aardvark, of the set ant"):
        opened(config, "aardvark", "ant", "bee", "cow")


def test_other_words_are_told(config, caplog):
    with caplog.at_level("WARNING"):
        opened(config, "n01", "n02", "n03")
    assert "the set's class names (ant, ...) aren't the network's (n01, ...)" in caplog.text
