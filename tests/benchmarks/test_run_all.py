"""``make bench`` takes at most 20 minutes, records failures, and keeps rows not measured anew."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import run_all
from benchmarks.harness import DEADLINE, NOTE
from benchmarks.jobs import JOBS, Job
from tools.pages.benchmarks import COLUMNS, FAILED, benchmark_tables, read_results

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"machine": "a CPU", "versions": "x 1", "commit": "abc", "date": "2026-01-01"}
ONE, TWO = Job("one.py --side 1", "--rounds 2", 20, "--steps 1"), Job("two.py", "", 20, "")
ROW = {"benchmark": "One step", "case": "c", "value": 1.0, "unit": "s", "rival": "r"}
ROW |= {"rival_value": 2.0, "ratio": 2.0, "goal": ">= 3"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project of two programs; a call gives one its text."""
    (tmp_path / "benchmarks").mkdir()
    monkeypatch.setattr(run_all, "ROOT", tmp_path)
    monkeypatch.setattr(run_all, "JOBS", (ONE, TWO))
    monkeypatch.setattr(run_all, "RESULTS", tmp_path / "benchmarks" / "results.csv")
    monkeypatch.setattr(run_all, "provenance", lambda *_: FACTS)

    def write(name: str, text: str) -> None:
        (tmp_path / "benchmarks" / f"{name}.py").write_text(text)

    write("one", f"print({json.dumps(json.dumps(ROW))})")
    write("two", f"print({json.dumps(json.dumps({**ROW, 'benchmark': 'Other'}))})")
    return write


def results() -> list[dict]:
    return read_results(run_all.RESULTS)


def run(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["run_all.py", *arguments])
    return run_all.main()


def test_every_row_has_its_command_its_provenance_and_whether_its_goal_is_met(place, monkeypatch):
    assert run(monkeypatch) == 0
    assert [(r["benchmark"], r["command"], r["met"]) for r in results()] == [
        ("One step", "one.py --side 1", "no"),
        ("Other", "two.py", "no"),
    ]
    assert all(row[name] == value for row in results() for name, value in FACTS.items())


def test_a_failure_is_recorded_and_earlier_rows_are_kept(place, monkeypatch, capsys):
    run(monkeypatch)
    place("one", "import sys\nprint('a line')\nsys.exit('no memory left')")
    monkeypatch.setattr(run_all, "provenance", lambda *_: {**FACTS, "commit": "def"})
    assert run(monkeypatch) == 1
    rows = results()
    assert [(r["benchmark"], r["commit"]) for r in rows] == [
        ("One step", "abc"),
        ("Other", "def"),
        (FAILED, "def"),
    ]
    assert rows[-1]["case"] == "exit status 1: no memory left"
    page = benchmark_tables(rows)
    assert "- `one.py --side 1` (2026-01-01, a CPU): exit status 1: no memory left" in page
    assert "1 of 2 done" in capsys.readouterr().out
    place("one", f"print({json.dumps(json.dumps(ROW))})")  # and is forgotten once it works
    assert run(monkeypatch, "--only", "one") == 0
    assert [row["benchmark"] for row in results()] == ["One step", "Other"]


def test_a_run_replaces_only_the_rows_of_its_own_machine(place, monkeypatch):
    run(monkeypatch)
    monkeypatch.setattr(run_all, "provenance", lambda *_: {**FACTS, "machine": "another"})
    place("two", "raise SystemExit('broken')")
    run(monkeypatch)
    assert [(row["benchmark"], row["machine"]) for row in results()] == [
        *(("One step", "a CPU"), ("One step", "another"), ("Other", "a CPU"), (FAILED, "another"))
    ]
    assert [row["command"] for row in results()] == [*["one.py --side 1"] * 2, *["two.py"] * 2]


def test_effort_is_passed_on_but_not_part_of_what_was_measured(place, monkeypatch):
    place("one", f"import sys\nprint({json.dumps(json.dumps(ROW))})\nsys.exit(str(sys.argv[1:]))")
    run(monkeypatch, "--only", "one")
    assert results()[-1]["case"] == "exit status 1: ['--side', '1', '--rounds', '2']"
    assert results()[-1]["command"] == "one.py --side 1"


def test_rows_printed_before_a_failure_are_kept(place, monkeypatch):
    place("one", f"print({json.dumps(json.dumps(ROW))}, flush=True)\nraise SystemExit('late')")
    assert run(monkeypatch, "--only", "one") == 1
    assert [row["benchmark"] for row in results()] == ["One step", FAILED]


def test_a_program_that_takes_too_long_is_killed_with_its_processes(place, monkeypatch, tmp_path):
    code = "import subprocess, sys; child = subprocess.Popen(['sleep', '60'])\n"
    code += f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid)); child.wait()"
    place("two", code)
    monkeypatch.setattr(run_all, "JOBS", (Job("two.py", "", 2, ""),))
    monkeypatch.setattr(run_all, "GRACE_SECONDS", 0.5)
    started = time.monotonic()
    assert run(monkeypatch) == 1
    assert time.monotonic() - started < 30
    assert results()[0]["case"] == "took longer than 2 s"
    child = (tmp_path / "child").read_text()
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_later_programs_may_use_the_time_that_earlier_ones_leave_over(place, monkeypatch):
    place("two", "import time; time.sleep(3)\n" + f"print({json.dumps(json.dumps(ROW))})")
    monkeypatch.setattr(run_all, "JOBS", (Job("one.py", "", 60, ""), Job("two.py", "", 1, "")))
    assert run(monkeypatch) == 0


def test_every_program_gets_its_deadline(place, monkeypatch, tmp_path):
    code = f"import os; open(__file__ + '.end', 'w').write(os.environ[{DEADLINE!r}])\n"
    for name in ("one", "two"):
        place(name, code + f"print({json.dumps(json.dumps(ROW))})")
    before = time.monotonic()
    assert run(monkeypatch) == 0
    after = time.monotonic()
    ends = [float((tmp_path / "benchmarks" / f"{n}.py.end").read_text()) for n in ("one", "two")]
    for end, seconds in zip(ends, (20, 40)):  # the second has what the first leaves over
        assert before + seconds <= end <= after + seconds


def test_a_program_may_end_a_few_seconds_after_its_deadline(place, monkeypatch):
    code = "import os, sys, time\n"
    code += f"time.sleep(max(0, float(os.environ[{DEADLINE!r}]) - time.monotonic()))\n"
    code += f"print({json.dumps(json.dumps(ROW))}); sys.exit('no time was left for: b')"
    place("two", code)
    monkeypatch.setattr(run_all, "JOBS", (Job("two.py", "", 1, ""),))
    assert run(monkeypatch) == 1
    assert [row["case"] for row in results()] == ["c", "exit status 1: no time was left for: b"]


def test_last_programs_run_last_but_keep_their_place_in_the_results(place, monkeypatch, capsys):
    monkeypatch.setattr(run_all, "JOBS", (Job("one.py", "", 20, "", last=True), TWO))
    assert run(monkeypatch) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("1/", "2/"))]
    assert lines == ["1/2 two.py", "2/2 one.py"]
    assert [row["command"] for row in results()] == ["one.py", "two.py"]


def test_notes_are_shown_and_are_not_rows(place, monkeypatch, capsys):
    place(
        "two",
        f"print({NOTE!r} + 'two rounds')\nprint('else')\nprint({json.dumps(json.dumps(ROW))})",
    )
    assert run(monkeypatch, "--only", "two") == 0
    shown = capsys.readouterr().out
    assert "    note: two rounds\n" in shown
    assert "else" not in shown
    assert len(results()) == 1


def test_rows_of_removed_programs_are_dropped(place, monkeypatch):
    run(monkeypatch)
    monkeypatch.setattr(run_all, "JOBS", (Job("one.py --side 2", "", 20, ""), TWO))
    assert run(monkeypatch, "--only", "two") == 0
    assert [row["command"] for row in results()] == ["two.py"]


def test_a_quick_run_never_overwrites_results(place, monkeypatch, capsys):
    with pytest.raises(SystemExit) as refusal:
        run(monkeypatch, "--quick")
    assert refusal.value.code == 2
    assert "--results" in capsys.readouterr().err
    assert not run_all.RESULTS.exists()


def test_jobs_exist_are_documented_and_take_at_most_twenty_minutes():
    assert sum(job.seconds for job in JOBS) + run_all.GRACE_SECONDS <= 20 * 60 - 20  # for the page
    readme = (ROOT / "benchmarks" / "README.md").read_text()
    assert len({job.command for job in JOBS}) == len(JOBS) >= 10
    for job in JOBS:
        assert (ROOT / "benchmarks" / f"{job.script}.py").is_file()
        assert f"`{job.script}.py`" in readme


def test_the_committed_results_are_of_current_programs():
    with open(ROOT / "benchmarks" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["command"] for row in rows} <= {job.command for job in JOBS}
    assert all(tuple(row) == COLUMNS for row in rows)


def test_asking_for_help_starts_nothing():
    command = [sys.executable, str(ROOT / "benchmarks" / "run_all.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "--quick" in done.stdout) == (0, True)
