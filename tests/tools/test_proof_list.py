"""The list of experiments: names, dependencies, budgets and recipes."""

from __future__ import annotations

from collections import Counter

import pytest

from mindcv_ghost.config.loading import load_config
from tests.tools.test_tables import ROOT
from tools.measure.proof_list import DATA_SETS, EPOCHS, PAIR, QUESTIONS, ROWS, experiments

LIST = experiments()
each_experiment = pytest.mark.parametrize("experiment", LIST, ids=lambda one: one.name)


def load(experiment):
    recipe = ROOT / "configs" / "ghostnet" / experiment.recipe
    return load_config(["--config", str(recipe), *ROWS[experiment.row].options])


def test_every_experiment_has_a_name_of_its_own():
    assert max(Counter(one.name for one in LIST).values()) == 1
    assert {one.row for one in LIST} == set(ROWS)
    others = {"deep", "shallow"}  # compare rows of other questions
    assert {row.question for row in ROWS.values()} == set(QUESTIONS) - others


def test_the_main_pair_comes_first_on_both_data_sets():
    first = [(one.data, one.row, one.seed) for one in LIST[:12]]
    assert first == [
        (data, row, seed)
        for data in ("cifar10_jpeg", "fashion_mnist")
        for seed in (0, 1, 2)
        for row in PAIR
    ]


@each_experiment
def test_what_an_experiment_depends_on_exists_and_comes_before_it(experiment):
    if experiment.parent is not None:
        assert LIST.index(experiment.parent) < LIST.index(experiment)
        assert load(experiment.parent).train.epoch_size == EPOCHS


@each_experiment
def test_the_recipe_loads_with_the_budget_of_its_row(experiment):
    config, row = load(experiment), ROWS[experiment.row]
    assert config.train.epoch_size == (row.epochs or EPOCHS)
    schedule = config.scheduler
    assert schedule.warmup_epochs + schedule.decay_epochs == config.train.epoch_size


@pytest.mark.parametrize("data", DATA_SETS)
def test_networks_that_are_compared_differ_in_network_and_teacher_alone(data):
    compared = [one for one in LIST if one.data == data and ROWS[one.row].epochs == EPOCHS]
    may_differ = {"model", "model_args", "ckpt_save_dir", "teacher", "teacher_args"}
    may_differ |= {"teacher_ckpt", "distill_alpha", "distill_temperature"}
    fitted = {"ghostify", "ckpt_path", "lr"}
    base = load(compared[0]).flat()
    for one in compared:
        flat = load(one).flat()
        different = {key for key in flat if flat[key] != base[key]}
        assert different <= may_differ | (fitted if one.row == "fit_15" else set()), one.name


def test_cifar10_as_jpeg_is_read_as_cifar10_and_its_test_images_are_validated():
    dataset = load(next(one for one in LIST if one.data == "cifar10_jpeg")).dataset
    assert (dataset.dataset, dataset.val_split) == ("cifar10", "test")


def test_the_weight_and_temperature_of_the_teacher_are_those_of_the_source():
    distilled = load(next(one for one in LIST if one.row == "distilled")).flat()
    assert (distilled["distill_alpha"], distilled["distill_temperature"]) == (0.9, 4)
