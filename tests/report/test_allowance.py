"""Benchmarks end when they have to, with rows of what they have measured by then."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks import train_step
from benchmarks.rows import (
    ENDS_AT,
    Allowance,
    OutOfTime,
    alternate,
    in_turn,
    run_launcher,
    tell_left_out,
)


class Clock:
    """Stands still but for what measurements take."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float):
        """A measurement that takes so long, from call to call, and gives that number."""
        coming = iter(seconds)

        def measure() -> float:
            took = next(coming)
            self.now += took
            return took

        return measure


@pytest.fixture
def clock() -> Clock:
    return Clock()


def broken_off() -> float:
    raise OutOfTime


def test_run_by_hand_all_rounds_are_measured(clock, monkeypatch):
    monkeypatch.delenv(ENDS_AT, raising=False)
    measures = {"a": clock.takes(1e6, 1e6, 1e6)}
    assert len(in_turn(measures, 3, Allowance(clock=clock), comparisons=2)) == 3


def test_the_end_is_the_one_that_the_environment_names(clock, monkeypatch):
    monkeypatch.setenv(ENDS_AT, "107.5")
    assert Allowance(clock=clock).left() == 7.5
    clock.now = 200
    assert Allowance(clock=clock).left() == 0


def test_no_round_is_begun_that_takes_longer_than_what_is_left(clock, capsys):
    # 20 of 50 s, then 14, so 16 are left: less than the longest.
    measures = {"a": clock.takes(5, 4, 0), "b": clock.takes(15, 10, 0)}
    assert in_turn(measures, 3, Allowance(50, clock)) == [{"a": 5, "b": 15}, {"a": 4, "b": 10}]
    assert clock.now == 134
    assert capsys.readouterr().out == "note: 2 whole rounds of 3, no time for more\n"


def test_a_round_that_just_fits_is_measured_and_nothing_is_noted(clock, capsys):
    assert len(in_turn({"a": clock.takes(10, 10)}, 2, Allowance(20, clock))) == 2
    assert capsys.readouterr().out == ""


def test_medians_are_of_the_rounds_there_was_time_for(clock):
    measures = {"a": clock.takes(1, 3, 2), "b": clock.takes(10, 10, 30)}
    assert alternate(measures, 5, Allowance(60, clock)) == {"a": 2, "b": 10}


def test_a_round_broken_off_keeps_what_it_has_but_counts_for_no_median(clock):
    def measures() -> dict:
        calls = iter((lambda: 8.0, broken_off))
        return {"a": clock.takes(1, 5), "b": lambda: next(calls)()}

    assert in_turn(measures(), 3, Allowance(60, clock)) == [{"a": 1, "b": 8}, {"a": 5}]
    assert alternate(measures(), 3, Allowance(60, clock)) == {"a": 1, "b": 8}


def test_a_first_round_broken_off_gives_what_it_has_measured(clock):
    measures = {"a": clock.takes(1), "b": broken_off, "c": clock.takes(1)}
    assert alternate(measures, 3, Allowance(60, clock)) == {"a": 1}


def test_further_rounds_leave_the_comparisons_to_come_their_shares(clock):
    allowance = Allowance(60, clock)
    assert len(in_turn({"a": clock.takes(12, 12, 12)}, 3, allowance, comparisons=2)) == 2
    assert allowance.left() == 36
    assert len(in_turn({"a": clock.takes(12, 12, 12)}, 3, allowance)) == 3


def test_nothing_is_begun_once_the_time_is_over(clock):
    assert in_turn({"a": clock.takes()}, 3, Allowance(0, clock)) == []
    assert alternate({"a": clock.takes()}, 3, Allowance(0, clock)) == {}


def test_a_program_that_is_measured_is_ended_when_the_time_is_over(tmp_path):
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"

    def program() -> None:
        while not (tmp_path / "pid").exists():  # the alarm may come before it has begun
            subprocess.run([sys.executable, "-c", code], cwd=tmp_path)

    assert in_turn({"a": program}, 1, Allowance(0.3)) == []
    if (tmp_path / "pid").exists():
        process = int((tmp_path / "pid").read_text())
        assert subprocess.run(["kill", "-0", str(process)], stderr=subprocess.DEVNULL).returncode


def test_rows_left_out_end_a_script_as_failed_by_their_names():
    tell_left_out([])
    with pytest.raises(SystemExit, match="no time was left for: a; b"):
        tell_left_out(["a", "b"])


def test_a_short_share_of_the_time_leaves_two_steps_behind_the_warm_up(clock):
    steps = []
    seconds, processor = train_step.clock_steps(lambda: steps.append(1), 5, Allowance(0, clock))
    assert len(steps) == train_step.WARM_UP + 2
    assert len(seconds) == len(processor) == 2
    seconds, _ = train_step.clock_steps(lambda: None, 1, Allowance(0, clock))
    assert len(seconds) == 1  # never more than were asked for


def test_enough_time_leaves_all_steps(clock):
    seconds, _ = train_step.clock_steps(lambda: None, 5, Allowance(1e9, clock))
    assert len(seconds) == 5


def test_ours_is_measured_first_then_rivals_with_a_goal():
    rows = train_step.ROWS
    assert train_step.everybody(rows["other"], "training") == ["native", "torch", "stock"]
    assert train_step.everybody(rows["ghost_resnet50"], "inference")[:2] == ["native", "torch"]


def test_a_step_has_rows_for_the_rivals_there_was_time_for(monkeypatch, capsys):
    calls = []

    def run(who, case, model, sizes, share):
        calls.append(who)
        if calls.count("torch") == 2 or who == "mindcv":
            raise OutOfTime
        seconds = {"native": 1.0, "stock": 3.0, "torch": 2.0}[who] * len(calls)
        return {"seconds": seconds, "processor": 1.0, "megabytes": 1.0}

    monkeypatch.setattr(train_step, "_run", run)
    monkeypatch.setattr(sys, "argv", ["train_step.py", "--case", "training", "--rounds", "2"])
    with pytest.raises(SystemExit, match="no time was left for: MindCV's resnet50"):
        train_step.main()
    assert calls == ["native", "stock", "torch", "mindcv"]
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    assert {row["rival"] for row in rows} == {train_step.NAMES[n] for n in ("stock", "torch")}


def test_a_step_compares_within_the_rounds_that_have_both(monkeypatch, capsys):
    calls = []

    def run(who, case, model, sizes, share):
        calls.append(who)
        if calls.count("stock") == 2:
            raise OutOfTime
        return {"seconds": {"native": 1.0, "torch": 2.0, "stock": 3.0}[who] * len(calls)}

    monkeypatch.setattr(train_step, "_run", run)
    command = ["train_step.py", "--case", "inference", "--model", "a", "--rounds", "3"]
    monkeypatch.setattr(sys, "argv", command)
    train_step.main()  # every rival has a row: nothing has failed
    lines = capsys.readouterr().out.splitlines()
    ratios = [json.loads(line)["ratio"] for line in lines if line.startswith("{")]
    # stock from the first round alone, 9 to 1; torch from both, 4 to 1 and 10 to 4.
    assert ratios == [9.0, 3.25]


def test_a_launcher_may_end_its_ranks_when_the_time_is_over(tmp_path):
    code = "trap 'touch ended; exit' TERM; touch begun; while true; do sleep 0.05; done"

    def launcher() -> None:
        while not (tmp_path / "begun").exists():
            run_launcher(["sh", "-c", code], cwd=tmp_path)

    assert in_turn({"a": launcher}, 1, Allowance(0.5)) == []
    assert (tmp_path / "begun").exists() == (tmp_path / "ended").exists()


def test_a_launchers_output_and_status_are_given():
    done = run_launcher(["sh", "-c", "echo a; echo b >&2; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == ("a\n", "b\n", 3)
