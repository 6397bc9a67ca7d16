"""Whatever a check does, the doctor continues or ends with a report, and never hangs."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import time

import pytest

from mindcv_ghost.doctor.exchange import FileExchange, MissingRanks, SingleRank
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, CheckResult, Report
from mindcv_ghost.doctor.runner import ONE_PER_HOST, RANK_0, Check, CheckRunner, Output
from mindcv_ghost.doctor.watchdog import WatchdogProcess, innermost_line
from mindcv_ghost.errors import DataError
from mindcv_ghost.launch.world import World

from .conftest import MPIRUN, lines_of, object_of

START_SECONDS = 60  # generous: the machine may be busy


class NoWatchdog:
    """Stands in for a watchdog."""

    def begin(self, number, what, seconds):
        self.seconds = seconds

    def end(self):
        pass

    def add_result(self, result):
        pass


def run(*checks: Check, world: World | None = None, exchange=None) -> list[CheckResult]:
    report, lines = Report(), []
    exchange = exchange or SingleRank()
    runner = CheckRunner(world or World(), exchange, NoWatchdog(), report, lines.append)
    runner.run(checks)
    assert lines[: len(report.results)]
    return report.results


def raising(error: BaseException):
    def check():
        raise error

    return check


def passing(what: str, **more) -> Check:
    return Check(what, lambda: CheckResult(what, OK, "fine"), **more)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("first\nsecond"), "ValueError: first"),
        (RuntimeError("----\n- The function\n----"), "RuntimeError: The function"),
        (KeyError(), "KeyError"),
        (SystemExit(3), "SystemExit: 3"),
        (DataError("no images in x.\nGive others."), "no images in x. Give others."),
    ],
)
def test_an_exception_is_the_checks_result_and_the_others_still_run(error, text):
    first, second = run(Check("a", raising(error)), passing("b"))
    assert (first.state, first.text) == (BROKEN, text)
    assert second.state == OK


def test_an_output_is_available_once_it_is_set():
    output: Output[int] = Output()
    with pytest.raises(LookupError):
        output.get()
    assert (output.set(3), output.get()) == (3, 3)


def test_an_interrupt_is_not_a_result():
    with pytest.raises(KeyboardInterrupt):
        run(Check("a", raising(KeyboardInterrupt())))


def test_checks_that_need_a_failed_or_skipped_check_are_skipped():
    checks = [
        Check("a", raising(ValueError())),
        passing("b", needs=("a",)),
        passing("c", needs=("b",)),
    ]
    states = [(each.what, each.state) for each in run(*checks, passing("d"))]
    assert states == [("a", BROKEN), ("b", SKIPPED), ("c", SKIPPED), ("d", OK)]


def test_a_broken_check_that_doesnt_block_lets_others_run():
    broken = Check("a", lambda: CheckResult("a", BROKEN, "wrong"))
    assert [each.state for each in run(broken, passing("b", needs=("a",)))] == [BROKEN, OK]


@pytest.mark.parametrize(("on", "ranks"), [(RANK_0, [0]), (ONE_PER_HOST, [0, 2])])
def test_some_checks_run_on_one_rank_or_on_one_per_host(on, ranks):
    def runs_on(rank):
        done = []
        check = Check("a", lambda: done.append(rank) or CheckResult("a", OK), on=on)
        world = World(rank, 4, rank % 2, 2, "openmpi")
        run(check, world=world)
        return done

    assert [rank for rank in range(4) if runs_on(rank)] == ranks


def test_ranks_read_each_others_results(tmp_path):
    exchanges = [
        FileExchange(tmp_path / "b", World(rank, 2, rank, 2, "openmpi")) for rank in (0, 1)
    ]
    exchanges[0].prepare()
    exchanges[1]._write("check0-rank1", vars(CheckResult("x", BROKEN, "mine", numbers={"a": 1})))
    results = exchanges[0].gather(0, CheckResult("x", OK, "fine"))
    assert [each.text for each in results.values()] == ["fine", "mine"]
    assert results[1].numbers == {"a": 1}
    exchanges[1].remove()
    assert (tmp_path / "b").exists()
    exchanges[0].remove()
    assert not (tmp_path / "b").exists()


def test_ranks_dont_wait_forever_for_one_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("mindcv_ghost.doctor.exchange.GRACE_SECONDS", 0.1)
    exchange = FileExchange(tmp_path / "b", World(0, 3, 0, 3, "openmpi"))
    exchange.prepare()
    exchange._write("check0-rank2", vars(CheckResult("x", OK, "fine")))
    with pytest.raises(MissingRanks) as error:
        exchange.gather(0, CheckResult("x", BROKEN, "no"))
    assert error.value.missing == [1] and sorted(error.value.results) == [0, 2]


def test_files_of_a_killed_job_are_removed_before_the_next_one(tmp_path):
    exchange = FileExchange(tmp_path / "b", World(0, 2, 0, 2, "openmpi"))
    exchange.prepare()
    exchange._write("check0-rank1", vars(CheckResult("x", OK, "old")))
    exchange.prepare()
    assert list((tmp_path / "b").iterdir()) == []


def test_the_watchdog_prints_a_long_checks_limit_once():
    now, err = [0.0], io.StringIO()
    process = WatchdogProcess(io.StringIO(), io.StringIO(), err, clock=lambda: now[0])
    begin = {"number": 0, "what": "training", "seconds": 3600.0, "due": 3600.0, "rank": 0}
    process.take({"begin": begin})
    for now[0] in (10.0, 20.0, 30.0):
        process._show_limit()
    assert err.getvalue() == "...      training: running, for 3600 s at most\n"


@pytest.fixture
def process(tmp_path):
    """The watchdog of rank 0; rank 1 is on another host, whose clock is an hour behind."""
    now = [10_000.0]
    process = WatchdogProcess(io.StringIO(), clock=lambda: now[0])
    process.now, process.size, process.folder = now, 2, tmp_path
    process.running = {"number": 4, "what": "training", "seconds": 60.0, "due": 10_060.0, "rank": 0}
    running = {**process.running, "rank": 1, "due": 6_460.0, "host": "elsewhere"}
    with subprocess.Popen(["sleep", "60"]) as bystander:
        running["pid"] = bystander.pid
        (tmp_path / "now-rank1.json").write_text(json.dumps(running))
        yield process
        assert bystander.poll() is None, "the watchdog signalled a process of this host"
        bystander.kill()


def test_a_rank_on_another_host_is_timed_by_this_clock_and_gets_no_signal(process):
    assert process.overdue() is None
    process.now[0] += 59
    assert process.overdue() is None
    process.now[0] += 3
    text = process.overdue()
    assert text.state == BROKEN and "rank 1 in training (on elsewhere)" in text.text


def test_the_wait_for_a_failed_rank_is_timed_by_this_hosts_clock(process):
    broken = vars(CheckResult("training", BROKEN, "no loss"))
    (process.folder / "check4-rank1.json").write_text(json.dumps(broken))
    os.utime(process.folder / "check4-rank1.json", (0, 0))  # the file server's clock
    assert process.overdue() is None
    process.now[0] += 11
    assert process.overdue().text == "rank 1: no loss; rank 0 waits for it"


def test_a_hang_is_located_at_this_packages_innermost_line():
    trace = (
        'Thread 0x1 (most recent call first):\n  File "/a/threading.py", line 1 in wait\n'
        'Current thread 0x2:\n  File "/s/mindspore/api.py", line 9 in run\n'
        '  File "/s/mindcv_ghost/engine/collectives.py", line 57 in sum\n'
    )
    assert innermost_line(trace) == "engine/collectives.py:57 in sum"
    assert innermost_line("") == ""


# -- processes ----------------------------------------------------------------------------------


def test_a_check_that_hangs_while_it_holds_pythons_lock_ends_with_a_report_and_status_1(doctor):
    done = doctor.one_check("hang", 0, 1)
    assert done.status == 1, done
    lines = lines_of(done.out)
    assert lines["first"][0] == OK and lines["second"][0] == BROKEN
    assert re.match(r"no end within 1 s \(at .+\.py:\d+ in \w+\)", lines["second"][1])
    assert done.out.count("paste from here") == 1 and "Traceback" not in done.out + done.err


def test_the_json_object_is_the_last_line_even_if_a_check_hangs(doctor):
    done = doctor.one_check("hang", 0, 1, "json")
    whole = object_of(done.out)
    assert done.status == 1 and whole["status"] == 1
    assert [each["what"] for each in whole["checks"]] == ["first", "second"]
    assert lines_of(done.err)["second"][0] == BROKEN


def test_a_rank_that_hangs_is_named_with_its_check(doctor):
    done = doctor.one_check("hang", 1, 2, launcher=MPIRUN)
    assert done.status == 1, done
    text = lines_of(done.out)["second"][1]
    assert text.startswith("no end within 2 s. rank 0 in second (at doctor/exchange.py:")
    assert "; rank 1 in second (at " in text
    assert done.out.count("paste from here") == 1


def test_a_rank_that_fails_while_another_waits_for_it_ends_the_job(doctor):
    done = doctor.one_check("fail", 1, 80, 3, launcher=MPIRUN)
    assert done.status == 1, done
    text = lines_of(done.out)["second"][1]
    assert text == "rank 1: ValueError: no such thing; rank 0 waits for it"
    assert done.out.count("paste from here") == 1


def test_a_process_that_dies_is_reported(doctor):
    done = doctor.one_check("die", 0, 60)
    assert done.status == -signal.SIGSEGV
    assert lines_of(done.out)["second"] == (
        BROKEN,
        "the process died (a crash in native code, or it was killed)",
    )


def test_ctrl_c_ends_the_doctor_at_once_and_leaves_no_files(doctor, tmp_path):
    process = doctor.start(*doctor.script, "rest", 0, 60, TMPDIR=str(tmp_path))
    deadline = time.monotonic() + START_SECONDS
    assert process.stderr.readline() == "resting\n" and time.monotonic() < deadline
    os.killpg(process.pid, signal.SIGINT)
    done = doctor.end(process, START_SECONDS)
    assert (done.status, done.err) == (130, "interrupted\n")
    assert "paste" not in done.out and list(tmp_path.iterdir()) == []


def test_messages_survive_json():
    process = WatchdogProcess(io.StringIO())
    result = vars(CheckResult("x", OK, "a\nb", numbers={"n": 1.5}))
    assert not process.take(json.loads(json.dumps({"result": result})))
    assert process.report.results == [CheckResult("x", OK, "a\nb", numbers={"n": 1.5})]
    assert process.take({"bye": True})
