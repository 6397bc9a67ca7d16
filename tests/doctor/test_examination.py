"""Whatever a check does, the doctor goes on or ends with a report, and never hangs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time

import pytest

from mindcv_ghost.doctor.board import Alone, Board, Lost
from mindcv_ghost.doctor.examination import FIRST, HOST, Check, Examination
from mindcv_ghost.doctor.findings import BROKEN, OK, SKIPPED, Finding, Report
from mindcv_ghost.doctor.watch import Watcher, place_of
from mindcv_ghost.errors import DataError
from mindcv_ghost.launch.world import World

from .conftest import MPIRUN, lines_of, object_of

START_SECONDS = 60  # generous: the machine may be busy


class Silent:
    """In a watch's place."""

    def begin(self, number, what, seconds):
        self.seconds = seconds

    def end(self):
        pass

    def found(self, finding):
        pass


def made(*checks: Check, world: World | None = None, board=None, **more) -> list[Finding]:
    report, lines = Report(), []
    exam = Examination(world or World(), board or Alone(), Silent(), report, lines.append, **more)
    exam.make(checks)
    assert lines[: len(report.findings)]
    return report.findings


def raising(error: BaseException):
    def run():
        raise error

    return run


def fine(what: str, **more) -> Check:
    return Check(what, lambda: Finding(what, OK, "fine"), **more)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (RuntimeError("----\n- The function\n----"), "RuntimeError: The function"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
        (DataError("no images in x.\nGive others."), "no images in x. Give others."),
    ],
)
def test_what_a_check_raises_is_its_finding_and_the_others_go_on(error, told):
    first, second = made(Check("a", raising(error)), fine("b"))
    assert (first.state, first.text) == (BROKEN, told)
    assert second.state == OK


def test_an_interrupt_is_no_finding():
    with pytest.raises(KeyboardInterrupt):
        made(Check("a", raising(KeyboardInterrupt())))


def test_checks_that_need_what_failed_are_skipped_one_after_the_other():
    checks = [Check("a", raising(ValueError())), fine("b", needs=("a",)), fine("c", needs=("b",))]
    states = [(each.what, each.state) for each in made(*checks, fine("d"))]
    assert states == [("a", BROKEN), ("b", SKIPPED), ("c", SKIPPED), ("d", OK)]


def test_a_broken_check_that_blocks_nothing_lets_others_be_tried():
    broken = Check("a", lambda: Finding("a", BROKEN, "wrong"))
    assert [each.state for each in made(broken, fine("b", needs=("a",)))] == [BROKEN, OK]


@pytest.mark.parametrize(("where", "ranks"), [(FIRST, [0]), (HOST, [0, 2])])
def test_some_checks_are_made_once_or_once_a_host(where, ranks):
    def run(rank):
        done = []
        check = Check("a", lambda: done.append(rank) or Finding("a", OK), where=where)
        world = World(rank, 4, rank % 2, 2, "openmpi")
        made(check, world=world)
        return done

    assert [rank for rank in range(4) if run(rank)] == ranks


def test_ranks_read_each_others_findings(tmp_path):
    boards = [Board(tmp_path / "b", World(rank, 2, rank, 2, "openmpi")) for rank in (0, 1)]
    boards[0].prepare()
    boards[1]._write("check0-rank1", vars(Finding("x", BROKEN, "mine", numbers={"a": 1})))
    found = boards[0].exchange(0, Finding("x", OK, "fine"))
    assert [each.text for each in found.values()] == ["fine", "mine"]
    assert found[1].numbers == {"a": 1}
    boards[1].remove()
    assert (tmp_path / "b").exists()
    boards[0].remove()
    assert not (tmp_path / "b").exists()


def test_ranks_dont_wait_for_ever_for_one_that_is_stuck(tmp_path, monkeypatch):
    monkeypatch.setattr("mindcv_ghost.doctor.board.GRACE_SECONDS", 0.1)
    board = Board(tmp_path / "b", World(0, 3, 0, 3, "openmpi"))
    board.prepare()
    board._write("check0-rank2", vars(Finding("x", OK, "fine")))
    with pytest.raises(Lost) as lost:
        board.exchange(0, Finding("x", BROKEN, "no"))
    assert lost.value.missing == [1] and sorted(lost.value.findings) == [0, 2]


def test_a_job_that_was_killed_leaves_nothing_that_the_next_one_reads(tmp_path):
    board = Board(tmp_path / "b", World(0, 2, 0, 2, "openmpi"))
    board.prepare()
    board._write("check0-rank1", vars(Finding("x", OK, "old")))
    board.prepare()
    assert list((tmp_path / "b").iterdir()) == []


def test_the_watcher_gives_a_sign_of_life_once_with_the_deadline():
    now, err = [0.0], io.StringIO()
    watcher = Watcher(io.StringIO(), io.StringIO(), err, clock=lambda: now[0])
    begin = {"number": 0, "what": "training", "seconds": 3600.0, "due": 3600.0, "rank": 0}
    watcher.take({"begin": begin})
    for now[0] in (10.0, 20.0, 30.0):
        watcher._reassure()
    assert err.getvalue() == "...      training: under way, for 3600 s at most\n"


@pytest.fixture
def watcher(tmp_path):
    """Beside rank 0 of two; rank 1 is on another host, whose clock is an hour behind."""
    now = [10_000.0]
    made = Watcher(io.StringIO(), clock=lambda: now[0])
    made.now, made.size, made.folder = now, 2, tmp_path
    made.under_way = {"number": 4, "what": "training", "seconds": 60.0, "due": 10_060.0, "rank": 0}
    under_way = {**made.under_way, "rank": 1, "due": 6_460.0, "host": "elsewhere"}
    with subprocess.Popen(["sleep", "60"]) as bystander:
        under_way["pid"] = bystander.pid
        (tmp_path / "now-rank1.json").write_text(json.dumps(under_way))
        yield made
        assert bystander.poll() is None, "the watcher signalled a process of this host"
        bystander.kill()


def test_a_rank_on_another_host_has_its_time_by_our_clock_and_no_signal_from_us(watcher):
    assert watcher.overdue() is None
    watcher.now[0] += 59
    assert watcher.overdue() is None
    watcher.now[0] += 3
    told = watcher.overdue()
    assert told.state == BROKEN and "rank 1 in training (on elsewhere)" in told.text


def test_rank_0_waits_for_a_broken_rank_by_its_own_clock(watcher):
    broken = vars(Finding("training", BROKEN, "no loss"))
    (watcher.folder / "check4-rank1.json").write_text(json.dumps(broken))
    os.utime(watcher.folder / "check4-rank1.json", (0, 0))  # as its file server has it
    assert watcher.overdue() is None
    watcher.now[0] += 11
    assert watcher.overdue().text == "rank 1: no loss; rank 0 waits for it"


def test_the_place_of_a_hang_is_the_innermost_line_of_ours():
    trace = (
        'Thread 0x1 (most recent call first):\n  File "/a/threading.py", line 1 in wait\n'
        'Current thread 0x2:\n  File "/s/mindspore/api.py", line 9 in run\n'
        '  File "/s/mindcv_ghost/engine/collectives.py", line 57 in sum\n'
    )
    assert place_of(trace) == "engine/collectives.py:57 in sum"
    assert place_of("") == ""


# -- processes ----------------------------------------------------------------------------------


def test_a_check_that_hangs_with_pythons_lock_held_ends_with_a_report_and_status_1(doctor):
    done = doctor.one_check("hang", 0, 1)
    assert done.status == 1, done
    lines = lines_of(done.out)
    assert lines["first"][0] == OK and lines["second"][0] == BROKEN
    assert re.match(r"no end within 1 s \(at .+\.py:\d+ in \w+\)", lines["second"][1])
    assert done.out.count("paste from here") == 1 and "Traceback" not in done.out + done.err


def test_the_object_comes_last_even_if_a_check_hangs(doctor):
    done = doctor.one_check("hang", 0, 1, "json")
    whole = object_of(done.out)
    assert done.status == 1 and whole["status"] == 1
    assert [each["what"] for each in whole["checks"]] == ["first", "second"]
    assert lines_of(done.err)["second"][0] == BROKEN


def test_one_rank_that_hangs_is_named_with_its_check(doctor):
    done = doctor.one_check("hang", 1, 2, launcher=MPIRUN)
    assert done.status == 1, done
    told = lines_of(done.out)["second"][1]
    assert told.startswith("no end within 2 s. rank 0 in second (at doctor/board.py:")
    assert "; rank 1 in second (at " in told
    assert done.out.count("paste from here") == 1


def test_a_rank_that_fails_while_another_waits_for_it_ends_the_job(doctor):
    done = doctor.one_check("fail", 1, 80, 3, launcher=MPIRUN)
    assert done.status == 1, done
    told = lines_of(done.out)["second"][1]
    assert told == "rank 1: ValueError: no such thing; rank 0 waits for it"
    assert done.out.count("paste from here") == 1


def test_a_process_that_dies_is_told(doctor):
    done = doctor.one_check("die", 0, 60)
    assert done.status == -signal.SIGSEGV
    assert lines_of(done.out)["second"] == (
        BROKEN,
        "the process died (a crash in native code, or somebody killed it)",
    )


def test_ctrl_c_ends_it_at_once_and_leaves_nothing(doctor, tmp_path):
    process = doctor.start(*doctor.script, "rest", 0, 60, TMPDIR=str(tmp_path))
    deadline = time.monotonic() + START_SECONDS
    assert process.stderr.readline() == "resting\n" and time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGINT)
    done = doctor.end(process, START_SECONDS)
    assert (done.status, done.err) == (130, "interrupted\n")
    assert "paste" not in done.out and list(tmp_path.iterdir()) == []


def test_messages_are_lines_of_json():
    watcher = Watcher(io.StringIO())
    finding = vars(Finding("x", OK, "a\nb", numbers={"n": 1.5}))
    assert not watcher.take(json.loads(json.dumps({"found": finding})))
    assert watcher.report.findings == [Finding("x", OK, "a\nb", numbers={"n": 1.5})]
    assert watcher.take({"bye": True})
