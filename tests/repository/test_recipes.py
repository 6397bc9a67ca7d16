"""Every recipe loads, names the sources of its numbers, and is on the model page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from tools.measure.proof_list import experiments
from tools.pages.recipe_header import describe_recipe, list_recipes

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs" / "ghostnet"
RECIPES = list_recipes(FOLDER)
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")

each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.path.stem)


def load(recipe, *argv):
    return load_config(["--config", str(recipe.path), *argv])


def test_the_main_recipes_exist():
    names = {recipe.path.name for recipe in RECIPES}
    assert {
        "ghost_resnet18_cifar10.yaml",
        "ghost_resnet50_ascend.yaml",
        "ghost_resnet50_ascend_cosine.yaml",
        "ghost_resnet50_digits.yaml",
        "ghost_resnet50_gpu.yaml",
    } <= names


def test_every_model_has_a_recipe_and_every_recipe_a_model():
    import mindcv
    from mindcv.models import registry

    import mindcv_ghost  # noqa: F401

    ours = {
        name
        for name in mindcv.list_models()
        if registry.model_entrypoint(name).__module__.startswith("mindcv_ghost.")
    }
    theirs = {"ghostnet_050", "ghostnet_100", "ghostnet_130"}
    assert {recipe.model for recipe in RECIPES} == ours | theirs


@each_recipe
def test_recipe_loads_with_the_values_that_it_sets(recipe):
    config = load(recipe)
    flat = config.flat()
    different = {
        key: (value, flat[key])
        for key, value in recipe.values.items()
        if _plain(flat[key]) != _plain(value)
    }
    assert different == {}


@each_recipe
def test_sink_mode_is_off_because_it_has_not_been_tried_on_a_device(recipe):
    assert load(recipe).flat()["dataset_sink_mode"] is False


@each_recipe
def test_model_is_named_by_the_files_prefix(recipe):
    assert recipe.path.stem.startswith(recipe.model + "_")


@each_recipe
def test_header_comment_runs_this_very_recipe(recipe):
    assert recipe.command.split()[recipe.command.split().index("--config") + 1] == str(
        recipe.path.relative_to(ROOT)
    )


@each_recipe
def test_hours_and_accuracy_name_their_source(recipe):
    for claim in (recipe.hours, recipe.accuracy):
        others = "paper|authors' page|MindCV's page"
        sources = rf"\(({others}|measured\b.*)\)$|^not measured$|^docs/proof\.md$"
        assert re.search(sources, claim), claim


@each_recipe
def test_recipes_of_the_proof_are_those_that_name_its_page(recipe):
    measured = recipe.path.name in {experiment.recipe for experiment in experiments()}
    assert (recipe.hours == recipe.accuracy == "docs/proof.md") is measured


@each_recipe
def test_measured_accuracy_is_that_of_a_recorded_run(recipe):
    runs = [read_json(path) for path in sorted((ROOT / "results").glob("*.json"))]
    recorded = [run for run in runs if run.get("recipe") == recipe.path.name]
    claimed = re.match(r"([\d.]+) % top-1.*\(measured", recipe.accuracy)
    if claimed or recorded:
        # The header comment and the recorded runs have the same accuracy.
        assert claimed and float(claimed[1]) in [round(run["top1"], 1) for run in recorded]


@each_recipe
def test_recipe_is_on_the_model_page(recipe):
    assert f"[{recipe.path.name}]({recipe.path.name})" in PAGE


def test_every_recipe_that_the_model_page_names_exists():
    names = {recipe.path.name for recipe in RECIPES}
    assert set(re.findall(r"[\w/]*?(\w+\.yaml)", PAGE)) == names


@each_recipe
def test_runs_go_to_a_folder_of_their_own(recipe):
    others = [other.values["ckpt_save_dir"] for other in RECIPES if other is not recipe]
    assert recipe.values["ckpt_save_dir"] not in others


@each_recipe
def test_schedule_ends_with_the_training(recipe):
    values = recipe.values
    assert values["warmup_epochs"] + values["decay_epochs"] == values["epoch_size"]


def test_links_and_pictures_of_the_model_page_exist():
    targets = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", PAGE) + re.findall(r'src="(.+?)"', PAGE)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (FOLDER / target).exists()] == []
    assert "ghost_module.png" in local


@pytest.mark.parametrize("name", ["ghost_resnet50_ascend", "ghost_resnet50_gpu"])
def test_authors_recipe_is_multi_step_without_label_smoothing_at_256_images(name):
    flat = load(next(r for r in RECIPES if r.path.stem == name)).flat()
    assert flat["batch_size"] * 8 == 256
    assert (flat["scheduler"], flat["label_smoothing"]) == ("multi_step_decay", 0.0)
    assert list(flat["multi_step_decay_milestones"]) == [30, 60, 90]
    assert (flat["opt"], flat["momentum"], flat["weight_decay"]) == ("momentum", 0.9, 1e-4)
    assert (flat["lr"], flat["decay_rate"], flat["warmup_epochs"]) == (0.1, 0.1, 0)


def test_header_comment_without_hours_is_refused(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("# Title\n# Command: python train.py\n# Accuracy: not measured\nmodel: x\n")
    with pytest.raises(ReportError, match="missing: Hours"):
        describe_recipe(path)


def _plain(value):
    if value == {}:
        return None  # `model_args: null` leaves out those of a base recipe
    return list(value) if isinstance(value, (list, tuple)) else value
