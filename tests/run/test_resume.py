"""Which states are taken, and what is told about those that are not."""

from __future__ import annotations

import numpy as np
import pytest

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.run.resume import find_resume_point
from mindcv_ghost.storage.resume_files import ResumeFiles

SETTINGS = {"epoch_size": 3, "ranks": 2, "lr": 0.1, "model": "tiny"}


def save(folder, epoch, step, **changes):
    position = {"epoch": epoch, "step": step, "batches": 9}
    facts = {"settings": SETTINGS, "position": position, "steps_per_epoch": 6, "ranks": 2}
    arrays = {"weight": np.ones(2, np.float32)}
    ResumeFiles(folder / "resume").save(arrays, {**facts, **changes}, epoch, step)


def take(folder, where="auto", **changes):
    return find_resume_point(where, folder, {**SETTINGS, **changes}, Collectives())


def test_without_resume_nothing_is_taken(tmp_path):
    save(tmp_path, 1, 0)
    assert take(tmp_path, where="") is None
    assert take(tmp_path / "new") is None


def test_the_newest_is_taken(tmp_path):
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 4)
    assert take(tmp_path).facts["position"]["step"] == 4


def test_another_recipe_is_refused_with_every_key(tmp_path):
    save(tmp_path, 1, 4)
    with pytest.raises(CheckpointError) as caught:
        take(tmp_path, lr=0.2, model="ghost_resnet50")
    text = str(caught.value)
    assert "lr: 0.1 before, 0.2 now\n  model: tiny before, ghost_resnet50 now" in text


def test_other_ranks_go_back_to_the_end_of_an_epoch(tmp_path):
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 4)
    assert take(tmp_path, ranks=4).facts["position"]["step"] == 0


def test_other_ranks_need_the_end_of_an_epoch(tmp_path):
    save(tmp_path, 0, 4)
    with pytest.raises(CheckpointError, match="within epoch 1.*\n  ranks: 2 before, 4 now"):
        take(tmp_path, ranks=4)


@pytest.mark.parametrize(
    "junk",
    [
        {"position": None},
        {"position": {"epoch": 1, "step": 4}},
        {"position": {"epoch": 10**9, "step": 0, "batches": 0}},
        {"position": {"epoch": 1, "step": -1, "batches": 0}},
        {"position": {"epoch": "1", "step": 0, "batches": 0}},
        {"settings": [1]},
        {"settings": {**SETTINGS, "epoch_size": []}},
        {"ranks": 10**9},
    ],
)
def test_facts_that_no_run_has_are_an_error(tmp_path, junk):
    save(tmp_path, 1, 4, **junk)
    with pytest.raises(CheckpointError):
        take(tmp_path)
