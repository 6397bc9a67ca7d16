"""What a validation refuses before it starts."""

from __future__ import annotations

import pytest

from mindcv_ghost.commands.job import read_job
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.run.validation import create_validation

WORDS = ["--model", "ghost_resnet20_cifar", "--ckpt_path", "a.ckpt", "--num_classes", "3"]


def test_without_weights_it_is_refused_and_the_options_that_give_them_are_named():
    config, world = read_job(["--model", "ghost_resnet20_cifar"], "validate")
    with pytest.raises(ConfigError, match="--ckpt_path FILE.*--pretrained NAME.*--onnx FILE"):
        create_validation(config, world, session=None)


@pytest.mark.parametrize("key", ["per_class", "confusion"])
def test_a_file_that_could_not_be_written_is_refused_before_the_images_are_read(tmp_path, key):
    for path, problem in (
        (tmp_path, "which is a folder"),
        (tmp_path / (300 * "x"), "which can't be written: File name too long"),
        (tmp_path / "none" / "file", "there is no folder .*none: create it"),
    ):
        config, world = read_job([*WORDS, f"--{key}", str(path)], "validate")
        with pytest.raises(ConfigError, match=f"{key} is {path}.*{problem}"):
            create_validation(config, world, session=None)


def test_a_recipe_s_new_classifier_is_for_its_training_alone():
    argv = [*WORDS, "--data_dir", "data", "--reset_head", "true"]
    assert read_job(argv, "train")[0].model.reset_head is True
    assert read_job(argv, "validate")[0].model.reset_head is False
