"""Which settings may change when a run is resumed."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.config import KEYS, Config, load_config
from mindcv_ghost.config.resume_rules import (
    FACTS,
    GROUPS,
    NAMES,
    REASONS,
    START,
    Changes,
    compare_settings,
)
from mindcv_ghost.errors import ConfigError

NOW = {
    **Config().flat(),
    **{"ranks": 2, "workers": 1, "native_images": True},
    **{"classes": 2, "class_names": ["ant", "bee"], "training_set": "9 images, 0123"},
    "teacher_weights": "0123",
}
BEFORE = json.loads(json.dumps(NOW))


def changes_of(accepted=(), **changes) -> Changes:
    return compare_settings(BEFORE, {**NOW, **changes}, accepted)


def lists_of(changes: Changes) -> dict[str, list[str]]:
    """The keys in each list that isn't empty."""
    lists = {name: list(value) for name, value in vars(changes).items() if value}
    return {name: [getattr(c, "key", c) for c in value] for name, value in lists.items()}


def test_every_key_and_fact_is_in_exactly_one_group():
    grouped = [key for group in GROUPS.values() for key in group]
    assert sorted(grouped) == sorted([*KEYS, *FACTS])
    assert GROUPS["IMPOSSIBLE"] | GROUPS["START"] == set(REASONS)
    assert set(NAMES) == {*KEYS, *FACTS} - set(REASONS)


def test_a_key_in_no_group_would_be_refused():
    found = compare_settings({**BEFORE, "later": 1}, {**NOW, "later": 2})
    assert lists_of(found) == {"unnamed": ["later"]}


def test_equal_settings_have_no_changes():
    assert changes_of() == Changes()


@pytest.mark.parametrize("key", sorted(GROUPS["FREE"]))
def test_keys_that_the_weights_do_not_depend_on_may_change(key):
    assert changes_of(**{key: "other"}) == Changes()


@pytest.mark.parametrize("key", sorted(GROUPS["INEXACT"]))
def test_devices_and_workers_may_change_but_not_bit_for_bit(key):
    assert lists_of(changes_of(**{key: "other"})) == {"inexact": [key]}


@pytest.mark.parametrize("key", sorted(GROUPS["BETWEEN_EPOCHS"]))
def test_batch_keys_may_change_between_epochs(key):
    found = changes_of(**{key: 7})
    assert lists_of(found) == {"between_epochs": [key]}
    assert str(found.between_epochs[0]) == f"{key}: {BEFORE[key]} before, 7 now"


@pytest.mark.parametrize("epochs", [1, 200])
def test_more_and_fewer_epochs_are_a_change_of_the_schedule(epochs):
    assert lists_of(changes_of(epoch_size=epochs)) == {"schedule": ["epoch_size"]}


@pytest.mark.parametrize("key", sorted(GROUPS["LENGTHS"]))
def test_the_schedules_lengths_follow_epoch_size_and_need_a_name_without_it(key):
    assert lists_of(changes_of(**{key: 7})) == {"unnamed": [key]}
    assert lists_of(changes_of([key], **{key: 7})) == {"named": [key]}
    both = lists_of(changes_of(**{key: 7, "epoch_size": 200}))
    assert both == {"schedule": sorted(["epoch_size", key])}


def test_the_schedules_rates_do_not_follow_epoch_size():
    found = lists_of(changes_of(lr=0.5, epoch_size=200))
    assert found == {"unnamed": ["lr"], "schedule": ["epoch_size"]}


@pytest.mark.parametrize("key", sorted(GROUPS["NAMED"]))
def test_settings_that_results_depend_on_are_accepted_by_name_only(key):
    assert lists_of(changes_of(**{key: 0.125})) == {"unnamed": [key]}
    assert lists_of(changes_of(["seed", key], **{key: 0.125})) == {
        "named": [key],
        "unchanged": ["seed"],
    }


@pytest.mark.parametrize("key", sorted(GROUPS["NAMED_BETWEEN"]))
def test_what_orders_the_images_is_accepted_by_name_at_the_end_of_an_epoch(key):
    assert lists_of(changes_of(**{key: "other"})) == {"unnamed": [key]}
    assert lists_of(changes_of([key], **{key: "other"})) == {
        "named": [key],
        "between_epochs": [key],
    }


@pytest.mark.parametrize("key", sorted(REASONS))
def test_what_does_not_fit_the_state_is_never_accepted(key):
    assert lists_of(changes_of([key], **{key: "other"}))["impossible"] == [key]


@pytest.mark.parametrize("key", START)
def test_what_the_run_started_from_is_kept_where_it_is_not_given_any_more(key):
    found = compare_settings({**BEFORE, key: "start.ckpt"}, NOW)
    assert lists_of(found) == {"kept": [key]}
    assert found.of_results == ()


@pytest.mark.parametrize("name", ["data_dir", "dataset", "train_split"])
def test_who_names_the_key_of_the_images_names_the_images(name):
    images = {"training_set": "8 images, 4567", "data_dir": "other"}
    found = lists_of(changes_of([name], **images))
    assert found == {"named": ["training_set"], "between_epochs": ["training_set"]}
    assert lists_of(changes_of([name], **images, class_names=["ant", "cat"]))["impossible"] == [
        "class_names"
    ]


@pytest.mark.parametrize("name", ["teacher_ckpt", "teacher_ema", "teacher_weights"])
def test_who_names_the_teacher_s_file_names_its_weights(name):
    other = {"teacher_ckpt": "other.ckpt", "teacher_weights": "4567"}
    assert lists_of(changes_of(**other)) == {"unnamed": ["teacher_weights"]}
    assert lists_of(changes_of([name], **other)) == {"named": ["teacher_weights"]}
    assert changes_of(teacher_ckpt="a copy.ckpt") == Changes()


def test_tuples_equal_the_lists_that_json_turns_them_into():
    assert changes_of(scale=[0.08, 1.0]) == Changes()


def test_a_key_that_one_release_lacks_does_not_prevent_resuming():
    found = compare_settings({**BEFORE, "new_key": 1}, NOW)
    assert lists_of(found) == {"inexact": ["new_key"]}
    assert str(found.inexact[0]) == "new_key: 1 before, null now"


def test_results_depend_on_these_changes_and_each_is_told_once():
    found = changes_of(["seed", "lr"], seed=1, lr=0.5, epoch_size=100, ranks=3, workers=2)
    assert [c.key for c in found.of_results] == ["epoch_size", "lr", "seed", "ranks"]


def test_resume_anyway_takes_keys_from_recipe_and_command_line(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("resume: auto\nresume_anyway: [lr, weight_decay, lr]\n")
    assert load_config(["--config", str(recipe)]).checkpoint.resume_anyway == ("lr", "weight_decay")
    words = ["--resume", "auto", "--resume_anyway", "training_set", "lr"]
    assert load_config(words).checkpoint.resume_anyway == ("training_set", "lr")
    for none in ("null", "[]"):
        assert load_config(["--resume_anyway", none]).checkpoint.resume_anyway == ()


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("weigth_decay", "weigth_decay isn't one; did you mean 'weight_decay'?"),
        ("model", "model isn't one: another network has other parameters"),
        ("opt", "opt isn't one: each optimizer has a state of its own"),
        ("ckpt_path", "ckpt_path isn't one: the run has begun, and goes on from its state; leave"),
        ("{}", "{} isn't one"),
    ],
)
def test_resume_anyway_refuses_other_names_and_says_why(word, remedy):
    with pytest.raises(ConfigError) as caught:
        load_config(["--resume", "auto", "--resume_anyway", "lr", word])
    assert f"give keys that a run can change; {remedy}" in str(caught.value)


def test_resume_anyway_alone_is_told_to_have_no_effect():
    notice = "resume_anyway has no effect without resume: a new run starts"
    assert notice in load_config(["--resume_anyway", "lr"]).notices
    assert notice not in load_config(["--resume_anyway", "lr", "--resume", "auto"]).notices
