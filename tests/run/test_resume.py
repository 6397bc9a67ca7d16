"""Which state a run resumes from, and why others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.run import training
from mindcv_ghost.run.resume import find_resume_point
from mindcv_ghost.storage.resume_folder import ResumeFolder

SETTINGS = {"epoch_size": 3, "ranks": 2, "lr": 0.1, "model": "tiny"}


def save(folder, epoch, step, **changes):
    position = {"epoch": epoch, "step": step, "batches": 9}
    facts = {"settings": SETTINGS, "position": position, "steps_per_epoch": 6, "ranks": 2}
    arrays = {"weight": np.ones(2, np.float32)}
    ResumeFolder(folder / "resume").save(arrays, {**facts, **changes}, epoch, step)


def find(folder, where="auto", accepted=(), **changes):
    return find_resume_point(where, folder, {**SETTINGS, **changes}, Collectives(), accepted)


@pytest.fixture
def told(caplog):
    """The lines that the log got: level and text."""
    caplog.set_level("INFO")
    return lambda: [(r.levelname, r.getMessage()) for r in caplog.records]


def test_without_resume_or_without_a_state_a_new_run_starts(tmp_path):
    save(tmp_path, 1, 0)
    assert find(tmp_path, where="") is None
    assert find(tmp_path / "new") is None


def test_a_change_that_costs_bit_equality_is_logged(tmp_path, told):
    save(tmp_path, 1, 4, settings={**SETTINGS, "device_target": "CPU"})
    assert find(tmp_path, device_target="Ascend").batches == 9
    assert told()[0] == (
        "WARNING",
        "device_target: CPU before, Ascend now: the run continues, but not bit for bit as without "
        "this change",
    )


def test_a_state_knows_the_run_folder_that_it_lies_in(tmp_path):
    save(tmp_path, 1, 0)
    assert find(tmp_path).lies_in(tmp_path)
    assert not find(tmp_path, where=str(tmp_path)).lies_in(tmp_path / "another")


def test_a_run_folder_is_the_same_by_a_relative_path(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    save(tmp_path / "run", 1, 0)
    monkeypatch.chdir(tmp_path)
    assert find(Path("run"), where=str(tmp_path / "run")).lies_in(Path("run"))


def test_the_newest_state_is_used(tmp_path):
    save(tmp_path, 1, 0)
    save(tmp_path, 1, 4)
    assert find(tmp_path).facts["position"]["step"] == 4


def test_another_recipe_is_refused_and_every_changed_key_is_named(tmp_path):
    save(tmp_path, 1, 4)
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, lr=0.2, model="ghost_resnet50")
    text = str(caught.value)
    assert "\n  lr: 0.1 before, 0.2 now\n" in text
    why = "(can't: another network has other parameters)"
    assert f"\n  model: tiny before, ghost_resnet50 now {why}\n" in text
    assert "To continue with the new lr, add --resume_anyway lr." in text


def test_another_start_is_refused_and_a_start_that_is_left_out_is_kept(tmp_path, told):
    save(tmp_path, 1, 4, settings={**SETTINGS, "ckpt_path": "start.ckpt", "pretrained": False})
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, ckpt_path="other.ckpt", pretrained=False)
    why = "(can't: the run has begun, and goes on from its state; leave it out)"
    assert f"\n  ckpt_path: start.ckpt before, other.ckpt now {why}\n" in str(caught.value)
    point = find(tmp_path, ckpt_path="", pretrained=False)
    assert point.start == {"ckpt_path": "start.ckpt", "pretrained": False}
    assert point.history == []
    assert ("INFO", "the run started with ckpt_path start.ckpt: config.yaml keeps that") in told()


def test_the_refusal_says_how_to_accept_all_of_it(tmp_path):
    save(tmp_path, 1, 4, settings={**SETTINGS, "seed": 1, "mixup": 0.0})
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, accepted=["seed"], seed=2, mixup=0.2, lr=0.2)
    assert str(caught.value).endswith(
        "To continue with the new lr and mixup, add --resume_anyway seed lr mixup."
    )
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, accepted=["model"], model="other", seed=1, mixup=0.0)
    assert "--resume_anyway" not in str(caught.value)


def test_accepted_changes_are_told_one_by_one(tmp_path, told):
    save(tmp_path, 1, 4, settings={**SETTINGS, "mixup": 0.0})
    point = find(tmp_path, accepted=["lr", "mixup", "momentum"], mixup=0.2, lr=0.2)
    assert point.facts["position"]["step"] == 4
    assert told()[:3] == [
        ("WARNING", "from here on lr: 0.1 before, 0.2 now, as --resume_anyway accepts"),
        ("WARNING", "from here on mixup: 0 before, 0.2 now, as --resume_anyway accepts"),
        ("INFO", "--resume_anyway momentum: nothing to accept here"),
    ]
    lines = ["lr: 0.1 before, 0.2 now", "mixup: 0 before, 0.2 now"]
    assert point.history == [{"epoch": 1, "step": 4, "batches": 9, "changes": lines}]


def test_other_images_are_accepted_at_the_end_of_an_epoch(tmp_path, told):
    settings = {**SETTINGS, "training_set": "48 images, 0123"}
    save(tmp_path, 1, 0, settings=settings)
    save(tmp_path, 1, 4, settings=settings)
    more = {"training_set": "96 images, 4567"}
    with pytest.raises(CheckpointError, match="add --resume_anyway training_set"):
        find(tmp_path, **more)
    assert find(tmp_path, accepted=["data_dir"], **more).facts["position"]["step"] == 0
    assert [text for level, text in told() if level == "WARNING"] == [
        "000002_epoch1_step4.safetensors lies within an epoch, where training_set can't change: "
        "going back to 000001_epoch1_step0.safetensors",
        "from here on training_set: 48 images, 0123 before, 96 images, 4567 now, as "
        "--resume_anyway accepts",
    ]


@pytest.mark.parametrize("step", [0, 4])
def test_more_epochs_are_accepted(tmp_path, told, step):
    save(tmp_path, 2, step)
    point = find(tmp_path, epoch_size=9)
    assert point.facts["position"]["step"] == step
    assert [change.key for change in point.changes.schedule] == ["epoch_size"]
    assert point.history[0]["changes"] == ["epoch_size: 3 before, 9 now"]


def test_a_finished_run_is_finished_only_for_its_own_number_of_epochs(tmp_path, told):
    save(tmp_path, 3, 0)
    find(tmp_path)
    find(tmp_path, epoch_size=4)
    texts = [text.split(":")[0] for _, text in told()]
    assert texts == ["the run is finished", "continuing with epoch 4"]


def test_fewer_epochs_are_accepted_down_to_those_that_are_done(tmp_path, told):
    save(tmp_path, 2, 0)
    assert find(tmp_path, epoch_size=2).batches == 9
    assert "the run is finished: 2 of 2 epochs" in told()[-1][1]
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, epoch_size=1)
    assert "epoch_size 1 is less than what is done: " in str(caught.value)
    assert "has 2 epochs. Give --epoch_size 2 or more" in str(caught.value)


def test_an_epoch_that_has_begun_counts_as_one(tmp_path):
    save(tmp_path, 1, 4)
    assert find(tmp_path, epoch_size=2).batches == 9
    with pytest.raises(CheckpointError) as caught:
        find(tmp_path, epoch_size=1)
    assert "has 1 epoch and 4 batches of the next. Give --epoch_size 2" in str(caught.value)


def test_the_history_of_a_state_is_kept(tmp_path):
    earlier = {"epoch": 1, "step": 0, "batches": 4, "changes": ["lr: 0.2 before, 0.1 now"]}
    save(tmp_path, 2, 0, history=[earlier])
    assert find(tmp_path).history == [earlier]
    assert find(tmp_path, epoch_size=5).history[0] == earlier
    assert len(find(tmp_path, epoch_size=5).history) == 2


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
        {"history": 3},
    ],
)
def test_facts_that_no_run_writes_are_an_error(tmp_path, invalid):
    save(tmp_path, 1, 4, **invalid)
    with pytest.raises(CheckpointError):
        find(tmp_path)


def test_a_run_names_every_commit_and_machine_that_trained_it(tmp_path, monkeypatch):
    config = load_config(["--config", "ghost_resnet50_digits", "--epoch_size", "3"])
    monkeypatch.setattr(training, "describe_hardware", lambda: "a CPU")
    monkeypatch.setattr(training, "utc_now", lambda: "now")
    monkeypatch.setattr(training, "source_commit", lambda: "a1")
    first = training._origin(config, None)
    assert first == {"commit": "a1", "hardware": "a CPU", "date": "now"}
    save(tmp_path, 1, 0, origin=first)
    monkeypatch.setattr(training, "source_commit", lambda: "b2")
    second = training._origin(config, find(tmp_path))
    assert second == {**first, "commit": "a1, then b2"}
    save(tmp_path, 2, 0, origin=second)
    assert training._origin(config, find(tmp_path)) == second
    # A finished run isn't trained any further.
    save(tmp_path, 3, 0, origin=second)
    monkeypatch.setattr(training, "source_commit", lambda: "c3")
    assert training._origin(config, find(tmp_path)) == second


def test_without_a_commit_there_is_none(tmp_path, monkeypatch):
    config = load_config(["--config", "ghost_resnet50_digits", "--epoch_size", "3"])
    monkeypatch.setattr(training, "source_commit", lambda: None)
    save(tmp_path, 1, 0, origin=training._origin(config, None))
    assert training._origin(config, find(tmp_path))["commit"] is None
