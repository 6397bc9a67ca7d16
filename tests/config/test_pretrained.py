"""``pretrained``: true, false or a text; and the recipe that comes with published weights."""

from __future__ import annotations

import pytest

from mindcv_ghost.commands.job import read_job
from mindcv_ghost.config import load_config
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.weights.checksums import SUMS, sums_text
from tests.helpers.published import CONFIG, write_published

URL = "https://host/pets#sha256=" + 64 * "0"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ([], False),
        (["--pretrained"], True),
        (["--pretrained", "true"], True),
        (["--pretrained", "False"], False),
        (["--pretrained", "fashion_mnist"], "fashion_mnist"),
        (["--pretrained=./pets"], "./pets"),
        (["--pretrained", URL], URL),
    ],
)
def test_it_is_a_boolean_or_a_text(words, value, load):
    config = load_config(words)
    assert config.model.pretrained == value
    assert load(config.to_yaml()).model.pretrained == value


@pytest.mark.parametrize("text", ["''", "0", "1"])
def test_nothing_and_a_number_are_refused(refused, text):
    assert "a name that `mindcv-ghost weights` lists" in refused(f"pretrained: {text}")


def test_a_text_and_a_checkpoint_are_one_too_many(refused, load):
    message = refused("pretrained: pets\nckpt_path: a.ckpt")
    assert "pretrained pets" in message and "can start from one only" in message
    config = load("pretrained: pets", "--ckpt_path", "best.ckpt", script="validate")
    assert (config.model.pretrained, config.model.ckpt_path) == (False, "best.ckpt")


@pytest.fixture
def pets(tmp_path):
    write_published(tmp_path / "pets")
    return tmp_path / "pets"


@pytest.mark.parametrize("script", ["validate", "export"])
def test_network_and_preprocessing_are_the_published_ones(pets, script):
    config, _ = read_job(["--pretrained", str(pets)], script)
    model = config.model
    assert (model.model, model.model_args) == ("ghost_resnet20_cifar", {"ratio": 3})
    assert (model.num_classes, model.in_channels) == (3, 1)
    assert config.augment.image_resize == 28
    assert (model.pretrained, model.ckpt_path) == (False, str(pets / "model.safetensors"))
    assert config.class_names == ("ant", "bee", "cow")
    assert config.scheduler.lr == load_config([]).scheduler.lr  # nothing else is taken over


def test_recipe_and_command_line_override_them(pets, recipe):
    path = recipe("image_resize: 32\nmodel_args: {drop: 1}\n")
    words = ["--config", path, "--pretrained", str(pets), "--in_channels", "3"]
    config, _ = read_job(words, "validate")
    assert (config.augment.image_resize, config.model.in_channels) == (32, 3)
    assert config.model.model_args == {"ratio": 3, "drop": 1}
    with pytest.raises(CheckpointError, match="ghost_resnet20_cifar, not of ghost_resnet18"):
        read_job(["--pretrained", str(pets), "--model", "ghost_resnet18"], "validate")


def test_a_training_takes_the_weights_alone_and_keeps_their_name(pets):
    words = ["--model", "ghost_resnet20_cifar", "--pretrained", str(pets)]
    config, _ = read_job(words, "train")
    assert config == load_config(words)
    assert config.augment.image_resize == load_config([]).augment.image_resize


def test_a_training_is_told_at_once_of_missing_weights_unless_it_resumes():
    words = ["--model", "ghost_resnet20_cifar", "--pretrained", "./none"]
    with pytest.raises(CheckpointError, match="'./none': there is no such folder"):
        read_job(words, "train")
    assert read_job([*words, "--resume", "auto"], "train")[0].model.pretrained == "./none"


def change_recipe(folder, text: str) -> None:
    """Change the recipe of published weights, and its checksum with it."""
    (folder / "config.yaml").write_text(text)
    names = [path.name for path in folder.iterdir() if path.name != SUMS]
    (folder / SUMS).write_text(sums_text(folder, names))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "_base_: ../other.yaml\n",
            "config.yaml isn't a recipe that `mindcv-ghost publish` wrote: .*config.yaml:6: _base_ "
            "isn't legal here: everything is in this one file",
        ),
        ("mean: [1, two]\n", "config.yaml isn't a recipe .*config.yaml:6: mean"),
        ("lr: 0.1\n", "config.yaml isn't a recipe .*config.yaml:6: lr is set twice"),
        ("{\n", "config.yaml isn't a recipe .*not YAML"),
    ],
)
def test_the_published_recipe_is_one_whole_file(pets, change, message):
    (pets.parent / "other.yaml").write_text("in_channels: 3\n")
    change_recipe(pets, CONFIG + change)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        read_job(["--pretrained", str(pets)], "validate")


def test_recipe_and_card_have_to_be_of_one_network(pets):
    change_recipe(pets, CONFIG.replace("resnet20", "resnet56"))
    message = "the recipe of ghost_resnet56_cifar, the card beside it that of ghost_resnet20_cifar"
    with pytest.raises(CheckpointError, match=message):
        read_job(["--pretrained", str(pets)], "validate")
