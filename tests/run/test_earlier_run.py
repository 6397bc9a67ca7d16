"""What a training leaves in its run folder doesn't pass for a later one's."""

from __future__ import annotations

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.run.resume import ResumePoint
from mindcv_ghost.run.training import _create_writer
from mindcv_ghost.storage.run_folder import RunFolder
from mindcv_ghost.storage.training_state import StateFile


def test_a_new_run_renames_an_earlier_ones_metrics_states_and_kept_checkpoints(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "resume").mkdir()
    names = ("metrics.csv", "best.ckpt", "ghost_resnet18-3_20.ckpt", "other-1_2.ckpt")
    names += ("validate.json", "confusion.png", "learning_curve.png")
    names += ("diverged.json", "diverged_rank1.json", "my-a.ckpt")
    for name in names:
        (tmp_path / name).write_text(name)
    config = load_config(["--model", "ghost_resnet18", "--dataset", "digits"], script="train")
    _create_writer(config, folder, 10, {}, None)
    assert (tmp_path / "resume.1").is_dir()
    for name in names[:-1]:
        stem, _, suffix = name.rpartition(".")
        assert (tmp_path / f"{stem}.1.{suffix}").read_text() == name
    assert not {path.name for path in tmp_path.iterdir()} & set(names[1:-1])
    assert (tmp_path / "my-a.ckpt").is_file()
    folder.close()


@pytest.mark.parametrize(("done", "renamed"), [(89, True), (90, False)])
def test_what_was_validated_does_not_pass_for_what_a_run_has_after_more_epochs(
    done, renamed, tmp_path, monkeypatch
):
    monkeypatch.setattr(ResumePoint, "restore_writer", lambda self, writer: None)
    folder = RunFolder(tmp_path)
    (tmp_path / "resume").mkdir()
    for name in ("validate.json", "diverged_rank3.json", "best.ckpt"):
        (tmp_path / name).write_text(name)
    words = ["--model", "ghost_resnet18", "--dataset", "digits", "--epoch_size", "90"]
    facts = {"position": {"epoch": done}}
    resume = ResumePoint(facts, StateFile(tmp_path / "resume" / "a", facts))
    _create_writer(load_config(words, script="train"), folder, 10, {}, resume)
    for stem in ("validate", "diverged_rank3"):
        assert (tmp_path / f"{stem}.1.json").exists() is renamed
        assert (tmp_path / f"{stem}.json").exists() is not renamed
    assert (tmp_path / "best.ckpt").exists()
    folder.close()


def test_a_new_run_keeps_the_record_of_an_earlier_one_unless_it_is_the_same_job_again(tmp_path):
    folder = RunFolder(tmp_path)
    first, second = (
        load_config(
            ["--model", "ghost_resnet18", "--dataset", "digits", "--lr", lr], script="train"
        )
        for lr in ("0.1", "0.2")
    )
    state = tmp_path / "resume" / "000001_epoch0_step5.safetensors"

    def start(config, facts: str) -> set[str]:
        _create_writer(config, folder, 10, {}, None)
        folder.write_config(config.to_yaml())
        (tmp_path / "run.json").write_text(facts)
        return {path.name for path in tmp_path.glob("[cr]*.[0-9].*")}

    assert start(first, "first") == set()
    assert start(first, "first again") == set()  # it was requeued before it saved a state
    state.write_bytes(b"state")
    assert start(first, "same settings") == {"config.1.yaml", "run.1.json"}
    assert start(second, "other settings") == {
        *("config.1.yaml", "run.1.json", "config.2.yaml", "run.2.json")
    }
    assert (tmp_path / "run.1.json").read_text() == "first again"
    assert (tmp_path / "config.1.yaml").read_text() == first.to_yaml()
    assert (tmp_path / "run.2.json").read_text() == "same settings"
    folder.close()
