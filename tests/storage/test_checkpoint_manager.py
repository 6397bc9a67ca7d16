"""The last, the best and at most ``keep_max`` numbered checkpoints stay in the run folder."""

from __future__ import annotations

from mindcv_ghost.storage.checkpoint import load_weights
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.provenance import sha256_of

from .test_checkpoint import Small, parameters


def saved_names(tmp_path, policy, accuracies, interval=1):
    manager = CheckpointManager(tmp_path, "net", 2, policy, interval)
    for epoch, top1 in enumerate(accuracies, start=1):
        manager.save(parameters(Small(fill=epoch)), epoch, 7, top1)
    return sorted(p.name for p in tmp_path.glob("net-*"))


def value(path) -> float:
    network = Small()
    load_weights(network, path)
    return float(network.body.weight.asnumpy()[0, 0])


def test_latest_k_keeps_the_newest(tmp_path):
    assert saved_names(tmp_path, "latest_k", [50, 40, 30, 20]) == ["net-3_7.ckpt", "net-4_7.ckpt"]
    assert (value(tmp_path / "last.ckpt"), value(tmp_path / "best.ckpt")) == (4.0, 1.0)


def test_top_k_keeps_the_best_and_the_earlier_of_equals(tmp_path):
    kept = saved_names(tmp_path, "top_k", [10, 50, 30, 50, 30])
    assert kept == ["net-2_7.ckpt", "net-4_7.ckpt"]
    assert value(tmp_path / "best.ckpt") == 2.0
    assert value(tmp_path / "net-4_7.ckpt") == 4.0


def test_without_a_policy_all_checkpoints_stay(tmp_path):
    assert len(saved_names(tmp_path, None, [None] * 4)) == 4


def test_the_interval_applies_to_the_numbered_files_and_not_to_the_last(tmp_path):
    assert saved_names(tmp_path, "latest_k", [None] * 5, interval=2) == [
        "net-2_7.ckpt",
        "net-4_7.ckpt",
    ]
    assert value(tmp_path / "last.ckpt") == 5.0
    assert not (tmp_path / "best.ckpt").exists()


def test_after_a_restore_older_numbered_checkpoints_are_removed_and_no_other_files(tmp_path):
    for name in ("best.ckpt", "net-1_7.ckpt", "net-2_7.ckpt", "other.txt"):
        (tmp_path / name).write_bytes(b"x")
    manager = CheckpointManager(tmp_path, "net", 1, "latest_k", 1)
    kept = [[1, "net-1_7.ckpt"], [2, "net-2_7.ckpt"], [0, "other.txt"]]
    best = {"best": 90.0, "best_sha256": sha256_of(tmp_path / "best.ckpt")}
    manager.restore({**best, "kept": kept})
    assert not manager.save(parameters(Small()), 3, 7, 80.0)
    names = ["best.ckpt", "last.ckpt", "net-3_7.ckpt", "other.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    assert manager.facts() == {**best, "kept": [[3, "net-3_7.ckpt"]]}


def restored(folder, facts: dict) -> CheckpointManager:
    manager = CheckpointManager(folder, "net", 1, None, 10)
    manager.restore(facts)
    return manager


def test_a_best_checkpoint_of_an_epoch_after_the_state_is_put_aside(tmp_path, caplog):
    first = CheckpointManager(tmp_path, "net", 1, None, 10)
    assert first.save(parameters(Small(fill=4)), 4, 7, 80.0)
    facts = first.facts()
    assert restored(tmp_path, facts).best == 80.0
    assert first.save(parameters(Small(fill=6)), 6, 7, 82.0)
    assert caplog.records == []
    second = restored(tmp_path, facts)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'best.ckpt'} isn't of the best epoch until this state and is kept as "
        "best.ckpt.given_up: the best epoch from here on takes its place"
    ]
    assert (second.best, (tmp_path / "best.ckpt").exists()) == (None, False)
    assert value(tmp_path / "best.ckpt.given_up") == 6.0
    assert second.save(parameters(Small(fill=7)), 6, 7, 79.0)
    assert (second.best, value(tmp_path / "best.ckpt")) == (79.0, 7.0)


def test_a_best_checkpoint_that_is_gone_is_replaced_by_the_next_best(tmp_path, caplog):
    first = CheckpointManager(tmp_path, "net", 1, None, 10)
    first.save(parameters(Small(fill=1)), 1, 7, 80.0)
    (tmp_path / "best.ckpt").unlink()
    second = restored(tmp_path, first.facts())
    assert "best.ckpt is gone: the best epoch from here on takes its place" in caplog.text
    assert second.save(parameters(Small(fill=2)), 2, 7, 70.0)
    assert value(tmp_path / "best.ckpt") == 2.0


def test_before_any_validation_there_is_no_best_checkpoint_to_keep_or_to_miss(tmp_path, caplog):
    nothing = CheckpointManager(tmp_path, "net", 1, None, 10).facts()
    restored(tmp_path, nothing)
    assert caplog.records == []
    CheckpointManager(tmp_path, "net", 1, None, 10).save(parameters(Small()), 1, 7, 50.0)
    restored(tmp_path, nothing)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best.ckpt.given_up", "last.ckpt"]


def test_a_run_that_goes_on_elsewhere_takes_over_the_best_checkpoint_and_only_files_that_are_there(
    tmp_path,
):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    first = CheckpointManager(old, "net", 1, "top_k", 1)
    assert first.save(parameters(Small(fill=1)), 1, 7, 90.0)
    second = CheckpointManager(new, "net", 1, "top_k", 1)
    second.restore(first.facts(), origin=old)
    assert not second.save(parameters(Small(fill=2)), 2, 7, 80.0)
    # net-1_7.ckpt stayed in the old folder: it doesn't count among those of the new one.
    assert sorted(p.name for p in new.iterdir()) == ["best.ckpt", "last.ckpt", "net-2_7.ckpt"]
    assert (value(new / "best.ckpt"), value(new / "last.ckpt")) == (1.0, 2.0)
    assert sorted(p.name for p in old.iterdir()) == ["best.ckpt", "last.ckpt", "net-1_7.ckpt"]


def test_a_best_checkpoint_of_a_later_epoch_is_not_taken_over(tmp_path, caplog):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    first = CheckpointManager(old, "net", 1, "top_k", 1)
    first.save(parameters(Small(fill=1)), 1, 7, 80.0)
    facts = first.facts()
    first.save(parameters(Small(fill=2)), 2, 7, 90.0)
    second = CheckpointManager(new, "net", 1, "top_k", 1)
    with caplog.at_level("WARNING"):
        second.restore(facts, origin=old)
    assert [record.getMessage() for record in caplog.records] == [
        f"{old / 'best.ckpt'} isn't of the best epoch until this state: the run goes on without a "
        "best.ckpt until an epoch is better than 80.00 %"
    ]
    assert list(new.iterdir()) == [] and second.best == 80.0
    assert second.save(parameters(Small(fill=3)), 2, 7, 85.0)
    assert (value(new / "best.ckpt"), value(old / "best.ckpt")) == (3.0, 2.0)


def test_the_other_runs_best_checkpoint_is_copied_so_that_its_permissions_stay(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    first = CheckpointManager(old, "net", 1, None, 10)
    first.save(parameters(Small(fill=1)), 1, 7, 80.0)
    (old / "best.ckpt").chmod(0o440)
    CheckpointManager(new, "net", 1, None, 10).restore(first.facts(), origin=old)
    assert not (new / "best.ckpt").samefile(old / "best.ckpt")
    assert (old / "best.ckpt").stat().st_mode & 0o777 == 0o440
