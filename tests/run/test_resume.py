"""Which state a run resumes from, and why others are refused."""

from __future__ import annotations

import numpy as np
import pytest

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.run import resume
from mindcv_ghost.run.resume import find_resume_point
from mindcv_ghost.storage.resume_folder import ResumeFolder

SETTINGS = {"epoch_size": 3, "ranks": 2, "lr": 0.1, "model": "tiny"}


def save(folder, epoch, step, **changes):
    position = {"epoch": epoch, "step": step, "batches": 9}
    facts = {"settings": SETTINGS, "position": position, "steps_per_epoch": 6, "ranks": 2}
    arrays = {"weight": np.ones(2, np.float32)}
    ResumeFolder(folder / "resume").save(arrays, {**facts, **changes}, epoch, step)


def find(folder, where="auto", **changes):
    return find_resume_point(where, folder, {**SETTINGS, **changes}, Collectives())


def test_without_resume_or_without_a_state_a_new_run_starts(tmp_path):
    save(tmp_path, 1, 0)
    assert find(tmp_path, where="") is None
    assert find(tmp_path / "new") is None


def test_a_change_that_costs_bit_equality_is_logged(tmp_path, caplog):
    save(tmp_path, 1, 4, settings={**SETTINGS, "device_target": "CPU"})
    resume._logger.propagate = True
    with caplog.at_level("WARNING"):
        assert find(tmp_path, device_target="Ascend").batches == 9
    assert [r.getMessage() for r in caplog.records] == [
        "device_target: CPU before, Ascend now: the run continues, but not bit for bit as without "
        "this change"
    ]


def test_a_state_knows_the_run_folder_that_it_lies_in(tmp_path):
    save(tmp_path, 1, 0)
    assert find(tmp_path).lies_in(tmp_path)
    assert not find(tmp_path, where=str(tmp_path)).lies_in(tmp_path / "another")


def test_the_newest_state_is_used(tmp_path):
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 4)
    assert find(tmp_path).facts["position"]["step"] == 4


def test_another_recipe_is_refused_and_every_changed_key_is_named(tmp_path):
    save(tmp_path, 1, 4)
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, lr=0.2, model="ghost_resnet50")
    text = str(caught.value)
    assert "lr: 0.1 before, 0.2 now\n  model: tiny before, ghost_resnet50 now" in text


def test_another_number_of_ranks_resumes_from_the_last_end_of_an_epoch(tmp_path):
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 4)
    assert find(tmp_path, ranks=4).facts["position"]["step"] == 0


def test_another_number_of_ranks_is_refused_if_no_epoch_has_ended(tmp_path):
    save(tmp_path, 0, 4)
    with pytest.raises(CheckpointError, match="within epoch 1.*\n  ranks: 2 before, 4 now"):
        find(tmp_path, ranks=4)


@pytest.mark.parametrize(
    "invalid",
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
def test_facts_that_no_run_writes_are_an_error(tmp_path, invalid):
    save(tmp_path, 1, 4, **invalid)
    with pytest.raises(CheckpointError):
        find(tmp_path)
