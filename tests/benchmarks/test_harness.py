"""Benchmarks keep their deadline, and print the rows that they have measured by then."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest

from benchmarks import train_step
from benchmarks.harness import (
    DEADLINE,
    OutOfTime,
    TimeBudget,
    fail_if_left_out,
    measure_rounds,
    medians_of_rounds,
    run_launcher,
)


class Clock:
    """A clock that only measurements advance."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def takes(self, *seconds: float):
        """A measurement that takes these seconds, call by call, and returns them."""
        coming = iter(seconds)

        def measure() -> float:
            took = next(coming)
            self.now += took
            return took

        return measure


@pytest.fixture
def clock() -> Clock:
    return Clock()


def out_of_time() -> float:
    raise OutOfTime


def test_a_benchmark_started_by_hand_measures_all_rounds(clock, monkeypatch):
    monkeypatch.delenv(DEADLINE, raising=False)
    measures = {"a": clock.takes(1e6, 1e6, 1e6)}
    assert len(measure_rounds(measures, 3, TimeBudget(clock=clock), comparisons=2)) == 3


def test_the_deadline_is_that_of_the_environment(clock, monkeypatch):
    monkeypatch.setenv(DEADLINE, "107.5")
    assert TimeBudget(clock=clock).left() == 7.5
    clock.now = 200
    assert TimeBudget(clock=clock).left() == 0


def test_a_round_begins_only_if_there_is_time_for_the_longest_so_far(clock, capsys):
    # 20 of 50 s, then 14, so 16 are left: less than the longest.
    measures = {"a": clock.takes(5, 4, 0), "b": clock.takes(15, 10, 0)}
    assert measure_rounds(measures, 3, TimeBudget(50, clock)) == [
        {"a": 5, "b": 15},
        {"a": 4, "b": 10},
    ]
    assert clock.now == 134
    assert capsys.readouterr().out == "note: 2 complete rounds of 3, no time for more\n"


def test_a_round_that_just_fits_is_measured_without_a_note(clock, capsys):
    assert len(measure_rounds({"a": clock.takes(10, 10)}, 2, TimeBudget(20, clock))) == 2
    assert capsys.readouterr().out == ""


def test_medians_are_over_the_rounds_that_there_was_time_for(clock):
    measures = {"a": clock.takes(1, 3, 2), "b": clock.takes(10, 10, 30)}
    assert medians_of_rounds(measures, 5, TimeBudget(60, clock)) == {"a": 2, "b": 10}


def test_a_stopped_round_is_returned_but_not_part_of_the_medians(clock):
    def measures() -> dict:
        calls = iter((lambda: 8.0, out_of_time))
        return {"a": clock.takes(1, 5), "b": lambda: next(calls)()}

    assert measure_rounds(measures(), 3, TimeBudget(60, clock)) == [{"a": 1, "b": 8}, {"a": 5}]
    assert medians_of_rounds(measures(), 3, TimeBudget(60, clock)) == {"a": 1, "b": 8}


def test_a_stopped_first_round_gives_what_it_has_measured(clock):
    measures = {"a": clock.takes(1), "b": out_of_time, "c": clock.takes(1)}
    assert medians_of_rounds(measures, 3, TimeBudget(60, clock)) == {"a": 1}


def test_further_rounds_leave_later_comparisons_their_share(clock):
    budget = TimeBudget(60, clock)
    assert len(measure_rounds({"a": clock.takes(12, 12, 12)}, 3, budget, comparisons=2)) == 2
    assert budget.left() == 36
    assert len(measure_rounds({"a": clock.takes(12, 12, 12)}, 3, budget)) == 3


def test_nothing_is_measured_after_the_deadline(clock):
    assert measure_rounds({"a": clock.takes()}, 3, TimeBudget(0, clock)) == []
    assert medians_of_rounds({"a": clock.takes()}, 3, TimeBudget(0, clock)) == {}


def test_a_measured_program_is_ended_at_the_deadline(tmp_path):
    code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"

    def program() -> None:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path)

    seconds = 0.3
    while not (tmp_path / "pid").exists():  # a busy machine may take longer to begin
        assert measure_rounds({"a": program}, 1, TimeBudget(seconds)) == []
        seconds *= 2
    process = int((tmp_path / "pid").read_text())
    assert subprocess.run(["kill", "-0", str(process)], stderr=subprocess.DEVNULL).returncode


def test_left_out_rows_make_a_script_fail_with_their_names():
    fail_if_left_out([])
    with pytest.raises(SystemExit, match="no time was left for: a; b"):
        fail_if_left_out(["a", "b"])


def test_ours_is_measured_first_then_rivals_with_a_goal():
    rows = train_step.ROWS
    assert train_step.measuring_order(rows["other"], "training") == ["native", "torch", "stock"]
    assert train_step.measuring_order(rows["ghost_resnet50"], "inference")[:2] == [
        "native",
        "torch",
    ]


class TimedProcess:
    """Replaces a process. PyTorch's steps take longer from turn to turn."""

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
    budget = TimeBudget(seconds, clock)
    return list(
        train_step.start_processes(
            order, lambda who: TimedProcess(clock, who, starts_in), steps, budget, comparisons
        )
    )


def test_a_rival_is_started_only_if_there_is_time_for_two_rounds_of_those_before(clock):
    # Started after 10 and 20 s; behind them and 10 s more, two rounds of 1 + 2 s have to fit.
    assert started(clock, 36, 10) == ["native", "torch", "stock"]
    assert started(clock, 35, 10) == ["native", "torch"]
    assert started(clock, 35, 10, steps=0) == ["native", "torch", "stock"]
    assert started(clock, 72, 10, comparisons=2) == ["native", "torch", "stock"]
    assert started(clock, 71, 10, comparisons=2) == ["native", "torch"]
    assert started(clock, 1, 10) == ["native"]  # of one alone there is no row, but it was tried


def measured(monkeypatch, capsys, make, *arguments: str) -> list[dict]:
    monkeypatch.setattr(train_step, "TimedProcess", make)
    monkeypatch.setattr(sys, "argv", ["train_step.py", *arguments])
    train_step.main()
    return printed(capsys)


def printed(capsys) -> list[dict]:
    lines = capsys.readouterr().out.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def test_train_step_prints_rows_of_the_rivals_that_there_was_time_for(monkeypatch, capsys, clock):
    def make(who: str, options: list[str]) -> TimedProcess:
        if who == "stock":
            raise OutOfTime
        return made.setdefault(who, TimedProcess(clock, who))

    made: dict[str, TimedProcess] = {}
    arguments = ("--case", "inference", "--model", "a", "--rounds", "3")
    with pytest.raises(SystemExit, match="no time was left for: the same network on MindSpore's"):
        measured(monkeypatch, capsys, make, *arguments)
    assert [row["rival"] for row in printed(capsys)] == [train_step.NAMES["torch"] + ", BN folded"]
    assert all(each.closed and each.turns == 3 for each in made.values())


def test_train_step_compares_within_rounds(monkeypatch, capsys, clock):
    def make(who: str, options: list[str]) -> TimedProcess:
        assert {"--case=inference", "--model=a", "--steps=2", "--batch=32"} <= set(options)
        return TimedProcess(clock, who)

    arguments = ("--case", "inference", "--model", "a", "--rounds", "3", "--steps", "2")
    rows = measured(monkeypatch, capsys, make, *arguments)
    ratios = {row["rival"]: (row["rival_value"], row["ratio"]) for row in rows}
    # torch's turns take 2, 8 and 18 s, ours and the other's a second each.
    assert ratios[train_step.NAMES["torch"] + ", BN folded"] == (8, 8)
    assert ratios[train_step.NAMES["stock"]] == (1, 1)


def test_a_process_that_ends_is_named_with_its_status(tmp_path):
    script = tmp_path / "ends.py"
    script.write_text("import sys; print('{\"seconds\": 1}', flush=True); sys.exit(3)")
    made = train_step.TimedProcess("stock", ["--case=training"], str(script))
    with contextlib.closing(made) as process:
        assert process.step_seconds == 1
        with pytest.raises(SystemExit, match="'stock'.* ended with status 3"):
            process.turn()


def test_a_process_answers_each_turn_and_ends_when_it_is_closed(tmp_path):
    script = tmp_path / "turns.py"
    script.write_text(
        "import os, sys\n"
        "print('a line of something else')\n"
        "print('{\"seconds\": 0.5}', flush=True)\n"
        "for _ in sys.stdin:\n"
        "    print('{\"seconds\": %d}' % os.getpid(), flush=True)\n"
    )
    with contextlib.closing(train_step.TimedProcess("native", [], str(script))) as process:
        (number,) = {int(process.turn()["seconds"]) for _ in range(3)}
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_a_launcher_can_end_its_ranks_at_the_deadline(tmp_path):
    code = "trap 'touch ended; exit' TERM; touch begun; while true; do sleep 0.05; done"

    def launcher() -> None:
        while not (tmp_path / "begun").exists():
            run_launcher(["sh", "-c", code], cwd=tmp_path)

    assert measure_rounds({"a": launcher}, 1, TimeBudget(0.5)) == []
    assert (tmp_path / "begun").exists() == (tmp_path / "ended").exists()


def test_a_launchers_output_and_status_are_returned():
    done = run_launcher(["sh", "-c", "echo a; echo b >&2; exit 3"])
    assert (done.stdout, done.stderr, done.returncode) == ("a\n", "b\n", 3)
