"""Which keys may change when a run is resumed."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.config import KEYS, Config
from mindcv_ghost.config.resume_rules import changed_keys

BEFORE = json.loads(json.dumps({**Config().flat(), "ranks": 2}))


def changes_of(**changes):
    return changed_keys(BEFORE, {**Config().flat(), "ranks": 2, **changes})


def test_equal_settings_have_no_changes():
    assert changes_of() == ([], [], [])


@pytest.mark.parametrize("key", ["log_interval", "data_dir", "ckpt_path", "save_every_steps"])
def test_keys_that_the_weights_do_not_depend_on_may_change(key):
    assert changes_of(**{key: "other"}) == ([], [], [])


@pytest.mark.parametrize("key", ["ranks", "batch_size", "gradient_accumulation_steps"])
def test_batch_keys_may_change_between_epochs(key):
    other, between, inexact = changes_of(**{key: 7})
    assert (other, len(between), inexact) == ([], 1, [])
    assert between[0].startswith(f"{key}: ") and between[0].endswith("before, 7 now")


@pytest.mark.parametrize("key", ["lr", "model", "opt", "epoch_size", "mixup", "seed", "ema"])
def test_keys_that_make_it_another_run_are_listed_with_both_values(key):
    other, between, inexact = changes_of(**{key: 0.125})
    assert (len(other), between, inexact) == (1, [], [])
    assert other[0].startswith(f"{key}: ") and other[0].endswith("before, 0.125 now")


def test_tuples_equal_the_lists_that_json_turns_them_into():
    assert changes_of(scale=[0.08, 1.0]) == ([], [], [])


def test_a_key_that_one_release_lacks_does_not_prevent_resuming():
    before = {**BEFORE, "new_key": 1}
    other, _, inexact = changed_keys(before, {**Config().flat(), "ranks": 2})
    assert (other, inexact) == ([], ["new_key: 1 before, null now"])


def test_28_keys_may_change_freely():
    free = [key for key in KEYS if changes_of(**{key: "something else"}) == ([], [], [])]
    assert {"lr", "model", "scale", "loss"}.isdisjoint(free)
    assert len(free) == 28
