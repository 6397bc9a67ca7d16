"""Recipes that come with the package are found by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindcv_ghost.config import load_config, shipped
from mindcv_ghost.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(words)
    return str(caught.value)


def test_a_name_finds_the_recipe_in_any_folder():
    recipe = ROOT / "configs" / "ghostnet" / "ghost_resnet50_ascend.yaml"
    for name in ("ghost_resnet50_ascend", "ghost_resnet50_ascend.yaml"):
        assert load_config(["--config", name]) == load_config(["--config", str(recipe)])


def test_a_file_of_that_name_comes_first(tmp_path):
    (tmp_path / "ghost_resnet50_ascend").write_text("epoch_size: 7\n")
    assert load_config(["--config", "ghost_resnet50_ascend"]).train.epoch_size == 7


def test_a_base_is_found_by_its_name_beside_the_file_or_in_the_package(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("_base_: ghost_resnet50_digits\nepoch_size: 3\ndecay_epochs: 2\n")
    config = load_config(["--config", "mine.yaml"])
    assert (config.train.epoch_size, config.dataset.dataset) == (3, "digits")
    (tmp_path / "ghost_resnet50_digits").write_text("dataset: cifar10\n")
    assert load_config(["--config", "mine.yaml"]).dataset.dataset == "cifar10"


def test_a_misspelt_name_gets_the_nearest_ones():
    text = refused("--config", "ghost_resnet50_ascnd")
    assert text.startswith("--config: there is no ghost_resnet50_ascnd; similar: ")
    assert "similar: ghost_resnet50_ascend, " in text
    assert text.endswith("`mindcv-ghost recipes` lists the recipes of this package")


def test_a_path_of_the_repository_gets_the_recipes_name():
    text = refused("--config", "configs/ghostnet/ghost_resnet50_digits.yaml")
    assert "no folder configs/ghostnet" in text
    assert text.endswith("; similar: ghost_resnet50_digits")


def test_an_installed_package_has_its_recipes_inside(tmp_path, monkeypatch):
    folder = tmp_path / "configs" / "ghostnet"
    folder.mkdir(parents=True)
    (folder / "inside.yaml").write_text("epoch_size: 5\n")
    monkeypatch.setattr(shipped, "_FOLDERS", (tmp_path / "configs", *shipped._FOLDERS))
    assert list(shipped.list_recipes()) == ["inside"]
    assert load_config(["--config", "inside"]).train.epoch_size == 5


def test_without_recipes_a_name_is_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "_FOLDERS", (tmp_path / "none",))
    assert "there is no ghost_resnet50_digits" in refused("--config", "ghost_resnet50_digits")
