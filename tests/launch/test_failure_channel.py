"""What supervisors tell each other: barriers, published values, and the cause of the job's end."""

from __future__ import annotations

import queue
import time
import uuid

import pytest

from mindcv_ghost.launch.failure_channel import SCHEDULER, Failure, FailureChannel
from mindcv_ghost.launch.processes import start_thread
from mindcv_ghost.launch.world import World

SECONDS = 20


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Opens a rank's end of a job of two; gives it, and a queue of statuses it is ended with."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Here nothing ends the process that reports, and a timer would speak during other tests.
    monkeypatch.setattr("mindcv_ghost.launch.failure_channel._ANSWER_SECONDS", 1000.0)
    launcher = uuid.uuid4().hex

    def opened(rank: int) -> tuple[FailureChannel, queue.Queue]:
        statuses: queue.Queue = queue.Queue()
        return FailureChannel(World(rank, 2, rank, 2, "pmi"), statuses.put, launcher), statuses

    return opened


def test_a_rank_that_connects_late_gets_what_was_published(job):
    first, _ = job(0)
    first.publish("address", ["127.0.0.1", 8118])
    second, _ = job(1)
    assert second.wait_for("address") == ["127.0.0.1", 8118]


def test_a_barrier_holds_a_rank_until_all_have_come(job):
    (first, _), (second, _) = job(0), job(1)
    passed: queue.Queue = queue.Queue()
    start_thread(lambda: passed.put(second.barrier("here")))
    with pytest.raises(queue.Empty):
        passed.get(timeout=0.2)
    first.barrier("here")
    passed.get(timeout=SECONDS)


def test_a_reported_failure_ends_all_ranks_with_its_status(job, capsys):
    (_, ended_first), (second, ended_second) = job(0), job(1)
    second.report(Failure(1, "ValueError: no", 7))
    assert (ended_second.get(timeout=SECONDS), ended_first.get(timeout=SECONDS)) == (7, 7)
    assert "rank 1 of 2 failed: ValueError: no" in capsys.readouterr().err


def test_a_rank_that_connects_after_a_failure_ends_with_its_status(job):
    first, ended_first = job(0)
    first.report(Failure(0, "lr is 'fast'", 2, kind="user"))
    time.sleep(0.6)  # the others have been told by then
    _, ended_second = job(1)
    assert (ended_second.get(timeout=SECONDS), ended_first.get(timeout=SECONDS)) == (2, 2)


def test_a_rank_that_connects_while_rank_0_ends_gets_its_status_too(job, monkeypatch):
    monkeypatch.setattr("mindcv_ghost.launch.failure_channel._CONNECT_SECONDS", 0.0)
    first, ended_first = job(0)
    first.report(Failure(0, "lr is 'fast'", 2, kind="user"))
    assert ended_first.get(timeout=SECONDS) == 2
    _, ended_second = job(1)
    assert ended_second.get(timeout=SECONDS) == 2


def test_a_closed_connection_is_a_death_unless_all_have_finished(job, capsys):
    (_, ended), (second, _) = job(0), job(1)
    second._connections[0].close()
    assert ended.get(timeout=SECONDS) == 1
    assert "rank 1 of 2 failed: it ended without a message" in capsys.readouterr().err


def test_nothing_fails_once_all_ranks_have_finished(job):
    (first, ended), (second, _) = job(0), job(1)
    start_thread(second.finish)
    first.finish()
    second._connections[0].close()
    first.report(Failure(0, "too late"))
    with pytest.raises(queue.Empty):
        ended.get(timeout=0.5)


def test_a_rank_that_finishes_while_another_waits_for_it_has_failed(job, capsys):
    (first, ended), (second, _) = job(0), job(1)
    start_thread(second.finish)
    start_thread(first.barrier, "the cluster")
    assert ended.get(timeout=SECONDS) == 1
    told = "rank 1 of 2 failed: it has ended while other ranks wait for it (at the cluster)"
    assert told in capsys.readouterr().err


def test_a_death_outweighs_errors_and_these_a_signal():
    signal, error = Failure(0, "", kind="signal"), Failure(1, "")
    user_1, user_0 = Failure(1, "", kind="user"), Failure(0, "", kind="user")
    death = Failure(SCHEDULER, "", kind="death")
    order = sorted([signal, error, user_1, user_0, death], key=Failure.priority)
    assert order == [death, user_0, error, user_1, signal]


def test_an_error_of_the_user_is_worded_as_by_a_single_process():
    assert Failure(0, "lr is 'fast'", 2, kind="user").message(2) == "error: lr is 'fast'"
    assert Failure(1, "no images", 2, kind="user").message(2) == "error: rank 1 of 2: no images"
    assert Failure(SCHEDULER, "x", kind="death").message(2) == "the scheduler process failed: x"
    detailed = Failure(1, "ValueError", detail="Traceback\n  ...\n")
    assert detailed.message(2) == "Traceback\n  ...\nrank 1 of 2 failed: ValueError"
