"""What a run that goes on in another folder takes over from the first one."""

from __future__ import annotations

import numpy as np
import pytest

from mindcv_ghost.engine.run_writer import RunWriter
from mindcv_ghost.report.events import EventsLog
from mindcv_ghost.report.metrics import MetricsLog
from mindcv_ghost.storage.checkpoint_manager import CheckpointManager
from mindcv_ghost.storage.resume_folder import ResumeFolder

ARRAYS = {"weight": np.zeros(3, np.float32)}


def open_writer(folder) -> RunWriter:
    folder.mkdir()
    return RunWriter(
        metrics=MetricsLog(folder / "metrics.csv", 10),
        events=EventsLog(folder / "events"),
        checkpoints=CheckpointManager(folder, "net", 1, None, 1),
        resume=ResumeFolder(folder / "resume"),
        facts={},
    )


@pytest.mark.parametrize(("later", "is_taken"), [(70.0, True), (90.0, False)])
def test_the_best_checkpoint_of_a_state_without_its_digest_is_taken_if_no_later_epoch_was_better(
    tmp_path, later, is_taken
):
    first, states = open_writer(tmp_path / "old"), []
    for epoch, best in enumerate((80.0, max(80.0, later)), 1):
        facts = {"checkpoints": {"best": best, "kept": []}, "metrics": first.metrics.text}
        states.append((facts, first.resume.save(ARRAYS, facts, epoch, 0)))
    (tmp_path / "old" / "best.ckpt").write_bytes(b"weights")
    second = open_writer(tmp_path / "new")
    second.restore(*states[0])
    assert (tmp_path / "new" / "best.ckpt").is_file() is is_taken
    assert second.checkpoints.best == 80.0
    # In the run's own folder the file stays, and later states know it if it is theirs.
    first.restore(*states[0])
    assert (first.checkpoints.facts()["best_sha256"] is not None) is is_taken
