"""Benchmarks end when they have to, with rows of what they have measured by then."""

from __future__ import annotations

import contextlib
import json
import os
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


def test_ours_is_measured_first_then_rivals_with_a_goal():
    rows = train_step.ROWS
    assert train_step.everybody(rows["other"], "training") == ["native", "torch", "stock"]
    assert train_step.everybody(rows["ghost_resnet50"], "inference")[:2] == ["native", "torch"]


class Contestant:
    """Stands in for a rival's process, whose steps take longer from turn to turn."""

    SECONDS = {"native": 1.0, "torch": 2.0, "stock": 3.0}

    def __init__(self, clock: Clock, who: str, starts_in: float = 0) -> None:
        clock.now += starts_in
        self.clock, self.who, self.step_seconds, self.turns = clock, who, self.SECONDS[who], 0
        self.closed = False

    def turn(self) -> dict[str, float]:
        self.turns += 1
        self.clock.now += self.step_seconds
        return {"seconds": self.step_seconds * self.turns**2 if self.who == "torch" else 1.0}

    def close(self) -> None:
        self.closed = True


def started(clock: Clock, seconds: float, starts_in: float, steps: int = 1, comparisons: int = 1):
    order = ["native", "torch", "stock"]
    allowance = Allowance(seconds, clock)
    return list(
        train_step.start(
            order, lambda who: Contestant(clock, who, starts_in), steps, allowance, comparisons
        )
    )


def test_rivals_are_started_as_long_as_there_is_time_for_two_rounds_of_all_before(clock):
    # Started after 10 and 20 s; behind them and 10 s more, two rounds of 1 + 2 s have to fit.
    assert started(clock, 36, 10) == ["native", "torch", "stock"]
    assert started(clock, 35, 10) == ["native", "torch"]
    assert started(clock, 35, 10, steps=0) == ["native", "torch", "stock"]
    assert started(clock, 72, 10, comparisons=2) == ["native", "torch", "stock"]
    assert started(clock, 71, 10, comparisons=2) == ["native", "torch"]
    assert started(clock, 1, 10) == ["native"]  # of one alone there is no row, but it was tried


def measured(monkeypatch, capsys, make, *arguments: str) -> list[dict]:
    monkeypatch.setattr(train_step, "Contestant", make)
    monkeypatch.setattr(sys, "argv", ["train_step.py", *arguments])
    train_step.main()
    return printed(capsys)


def printed(capsys) -> list[dict]:
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_a_step_has_rows_for_the_rivals_there_was_time_for(monkeypatch, capsys, clock):
    def make(who: str, options: list[str]) -> Contestant:
        if who == "stock":
            raise OutOfTime
        return made.setdefault(who, Contestant(clock, who))

    made: dict[str, Contestant] = {}
    arguments = ("--case", "inference", "--model", "a", "--rounds", "3")
    with pytest.raises(SystemExit, match="no time was left for: the same network on MindSpore's"):
        measured(monkeypatch, capsys, make, *arguments)
    assert [row["rival"] for row in printed(capsys)] == [train_step.NAMES["torch"] + ", BN folded"]
    assert all(each.closed and each.turns == 3 for each in made.values())


def test_a_step_compares_within_rounds(monkeypatch, capsys, clock):
    def make(who: str, options: list[str]) -> Contestant:
        assert {"--case=inference", "--model=a", "--steps=2", "--batch=32"} <= set(options)
        return Contestant(clock, who)

    arguments = ("--case", "inference", "--model", "a", "--rounds", "3", "--steps", "2")
    rows = measured(monkeypatch, capsys, make, *arguments)
    ratios = {row["rival"]: (row["rival_value"], row["ratio"]) for row in rows}
    # torch's turns take 2, 8 and 18 s, ours and the other's a second each.
    assert ratios[train_step.NAMES["torch"] + ", BN folded"] == (8, 8)
    assert ratios[train_step.NAMES["stock"]] == (1, 1)


def test_a_contestant_that_ends_is_named_with_its_status(monkeypatch, tmp_path):
    script = tmp_path / "ends.py"
    script.write_text("import sys; print('{\"seconds\": 1}', flush=True); sys.exit(3)")
    monkeypatch.setattr(train_step, "__file__", str(script))
    with contextlib.closing(train_step.Contestant("stock", ["--case=training"])) as contestant:
        assert contestant.step_seconds == 1
        with pytest.raises(SystemExit, match="'stock'.* ended with status 3"):
            contestant.turn()


def test_a_contestant_answers_turn_by_turn_and_ends_when_it_is_closed(monkeypatch, tmp_path):
    script = tmp_path / "turns.py"
    script.write_text(
        "import os, sys\n"
        "print('a line of something else')\n"
        "print('{\"seconds\": 0.5}', flush=True)\n"
        "for _ in sys.stdin:\n"
        "    print('{\"seconds\": %d}' % os.getpid(), flush=True)\n"
    )
    monkeypatch.setattr(train_step, "__file__", str(script))
    with contextlib.closing(train_step.Contestant("native", [])) as contestant:
        (process,) = {int(contestant.turn()["seconds"]) for _ in range(3)}
        os.kill(process, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


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
