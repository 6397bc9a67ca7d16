"""The watchdog process notices ranks that exceed a limit or wait in vain."""

from __future__ import annotations

import io
import json
import os
import subprocess

import pytest

from mindcv_ghost.doctor.report import BROKEN, OK, CheckResult
from mindcv_ghost.doctor.watchdog import WatchdogProcess, innermost_line


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


def test_messages_survive_json():
    process = WatchdogProcess(io.StringIO())
    result = vars(CheckResult("x", OK, "a\nb", numbers={"n": 1.5}))
    assert not process.take(json.loads(json.dumps({"result": result})))
    assert process.report.results == [CheckResult("x", OK, "a\nb", numbers={"n": 1.5})]
    assert process.take({"bye": True})
