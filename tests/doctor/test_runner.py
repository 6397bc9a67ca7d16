"""Whatever a check does, the doctor continues or ends with a report, and never hangs."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest

from mindcv_ghost.doctor.exchange import SingleRank
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED, CheckResult, Report
from mindcv_ghost.doctor.runner import ONE_PER_HOST, RANK_0, Check, CheckRunner, Output
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


# -- processes ----------------------------------------------------------------------------------


def test_a_check_that_hangs_while_it_holds_pythons_lock_ends_with_a_report_and_status_1(doctor):
    done = doctor.one_check("hang", 0, 1)
    assert done.status == 1, done
    lines = lines_of(done.out)
    assert lines["first"][0] == OK and lines["second"][0] == BROKEN
    assert re.match(r"no end within 1 s \(at .+\.py:\d+ in \w+\)", lines["second"][1])
    assert done.out.count("paste from here") == 1 and "Traceback" not in done.out + done.err


@pytest.mark.slow
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


@pytest.mark.slow
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
