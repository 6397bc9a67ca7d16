"""The doctor's command line, and the short training that it derives from a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindcv_ghost.doctor.options import parse_options, trial_config
from mindcv_ghost.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ghostnet"


def test_own_options_and_recipe_keys_can_be_mixed():
    options = parse_options(
        ["--ranks=2", "--batch_size", "8", "--json", "--device", "cpu", "--steps", "40"]
    )
    assert (options.ranks, options.json, options.steps, options.light) == (2, True, 40, False)
    assert options.config.dataset.batch_size == 8
    assert options.config.system.device_target == "CPU"
    assert options.given == {"batch_size", "device_target"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ranks", "two"], "--ranks: 'two' isn't legal; give a whole number from 1 to 4096"),
        (["--ranks"], "--ranks: '' isn't legal"),
        (["--device", "TPU"], "give one of Ascend, GPU, CPU, auto"),
        (["--steps", "15"], "give a multiple of 10, at least 20"),
        (["--patience", "nan"], "give seconds, at least 1"),
        (["--batchsize", "8"], "did you mean --batch_size?"),
        (["--batch_size", "-8"], "isn't legal; give a whole number, at least 1"),
    ],
)
def test_a_bad_option_is_an_error_that_says_what_is_legal(words, message):
    with pytest.raises(ConfigError, match="^") as error:
        parse_options(words)
    assert message in str(error.value)


def test_on_the_cpu_images_and_batches_are_small_unless_they_are_given():
    recipe = ["--config", str(CONFIGS / "ghost_resnet50_ascend.yaml")]
    config = trial_config(parse_options(recipe), "CPU")
    assert (config.augment.image_resize, config.dataset.batch_size) == (64, 4)
    config = trial_config(
        parse_options([*recipe, "--image_resize", "96", "--batch_size", "6"]), "CPU"
    )
    assert (config.augment.image_resize, config.dataset.batch_size) == (96, 6)


def test_precision_scale_and_optimizer_are_the_recipes_and_the_rate_is_constant():
    recipe = parse_options(["--config", str(CONFIGS / "ghost_resnet50_ascend.yaml")])
    config = trial_config(recipe, "Ascend")
    assert config.amp == recipe.config.amp and config.amp.amp_level == "O2"
    assert config.optimizer == recipe.config.optimizer
    assert (config.augment.image_resize, config.dataset.batch_size) == (224, 32)
    assert (config.scheduler.scheduler, config.scheduler.lr) == ("constant", 0.01)


def test_without_a_recipe_devices_train_in_float16_and_the_cpu_in_float32():
    assert trial_config(parse_options([]), "GPU").amp.loss_scale_type == "dynamic"
    assert trial_config(parse_options([]), "GPU").amp.amp_level == "O2"
    assert trial_config(parse_options([]), "CPU").amp.amp_level == "O0"
    assert trial_config(parse_options([]), "CPU").model.model == "ghost_resnet50"
    assert trial_config(parse_options(["--amp_level", "O3"]), "GPU").amp.amp_level == "O3"


def test_nothing_is_loaded_resumed_or_validated():
    options = parse_options(
        ["--ckpt_path", "x.ckpt", "--resume", "auto", "--val_while_train", "true"]
    )
    config = trial_config(options, "CPU")
    assert (config.model.ckpt_path, config.checkpoint.resume) == ("", "")
    assert not config.system.val_while_train
