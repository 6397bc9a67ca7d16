"""What a continued run may change."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.config import KEYS, Config
from mindcv_ghost.config.continuing import differences

BEFORE = json.loads(json.dumps({**Config().flat(), "ranks": 2}))


def compared(**changes):
    return differences(BEFORE, {**Config().flat(), "ranks": 2, **changes})


def test_the_same_settings_differ_in_nothing():
    assert compared() == ([], [], [])


@pytest.mark.parametrize("key", ["log_interval", "data_dir", "ckpt_path", "save_every_steps"])
def test_what_nothing_learnt_depends_on_is_free(key):
    assert compared(**{key: "other"}) == ([], [], [])


@pytest.mark.parametrize("key", ["ranks", "batch_size", "gradient_accumulation_steps"])
def test_the_batches_may_change_between_epochs(key):
    other, between, loose = compared(**{key: 7})
    assert (other, len(between), loose) == ([], 1, [])
    assert between[0].startswith(f"{key}: ") and between[0].endswith("before, 7 now")


@pytest.mark.parametrize("key", ["lr", "model", "opt", "epoch_size", "mixup", "seed", "ema"])
def test_what_makes_it_another_run_is_named_with_both_values(key):
    other, between, loose = compared(**{key: 0.125})
    assert (len(other), between, loose) == (1, [], [])
    assert other[0].startswith(f"{key}: ") and other[0].endswith("before, 0.125 now")


def test_tuples_are_the_lists_that_json_made_of_them():
    assert compared(scale=[0.08, 1.0]) == ([], [], [])


def test_a_key_of_another_version_is_no_obstacle():
    before = {**BEFORE, "new_key": 1}
    other, _, loose = differences(before, {**Config().flat(), "ranks": 2})
    assert (other, loose) == ([], ["new_key: 1 before, null now"])


def test_every_key_has_a_place():
    free = [key for key in KEYS if compared(**{key: "something else"}) == ([], [], [])]
    assert {"lr", "model", "scale", "loss"}.isdisjoint(free)
    assert len(free) == 28
