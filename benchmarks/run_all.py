"""Run the benchmarks and write what they print to results.csv; ``make bench`` does this.

    python benchmarks/run_all.py [--only data_loading first_step] [--rounds 1]

A benchmark that fails, is missing or takes longer than its share of the 20 minutes costs its own
rows: those of the latest run that had them stay, with their own commit and date.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mindcv_ghost import compat  # noqa: E402
from mindcv_ghost.engine.run_folder import source_commit  # noqa: E402
from mindcv_ghost.report.benchmarks import COLUMNS, meets  # noqa: E402
from mindcv_ghost.report.files import write_text  # noqa: E402
from mindcv_ghost.report.hardware import describe_hardware  # noqa: E402

# Seconds that each may take: 20 minutes together.
BENCHMARKS = {
    "train_step": 300,
    "data_loading": 170,
    "train_loop": 330,
    "data_parallel": 160,
    "first_step": 100,
    "start_up": 60,
    "jit_level": 80,
}
ARGUMENTS = {"start_up": ["--pairs", "2"], "jit_level": ["--pairs", "2"]}
ARGUMENTS["data_parallel"] = ["--rounds", "2"]
ARGUMENTS["train_step"] = ["--rounds", "2", "--steps", "6"]
RESULTS = ROOT / "benchmarks" / "results.csv"


def run(name: str, seconds: float, more: list[str]) -> tuple[list[dict], str]:
    """Run one; gives its rows, those before an early end as well, and what went wrong."""
    script = ROOT / "benchmarks" / f"{name}.py"
    if not script.is_file():
        return [], "there is no such benchmark"
    command = [sys.executable, str(script), *ARGUMENTS.get(name, []), *more]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(os.environ, PYTHONPATH=str(ROOT), PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
        problem = err[-2000:] if process.returncode else ""
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        out, _ = process.communicate()
        problem = f"took longer than {seconds:.0f} s"
    rows = []
    for line in out.splitlines():
        if line.startswith("{"):
            row = json.loads(line)
            rows.append({**row, "met": meets(row["goal"], row["ratio"], row["value"])})
    return rows, problem or ("" if rows else "printed no row")


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """New rows in place of the old ones of the same benchmarks."""
    measured = {row["benchmark"] for row in new}
    return [row for row in old if row["benchmark"] not in measured] + new


def write(rows: list[dict]) -> None:
    """Write results.csv whole."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if row[name] is None else row[name] for name in COLUMNS} for row in rows
    )
    write_text(RESULTS, out.getvalue())


def main() -> int:
    """Run what was asked for; the exit status is 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS))
    parser.add_argument("--rounds", help="for those that take it: fewer for a quick look")
    args = parser.parse_args()
    versions = compat.installed_versions()
    facts = {
        "machine": describe_hardware(),
        "versions": ", ".join(f"{name} {number}" for name, number in versions.items()),
        "commit": source_commit() or "none",
        "date": datetime.date.today().isoformat(),
    }
    rows: list[dict] = []
    if RESULTS.is_file():
        with open(RESULTS, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    failed = False
    for name in args.only:
        started = time.monotonic()
        takes_rounds = name not in ("start_up", "jit_level", "train_step")
        more = ["--rounds", args.rounds] if args.rounds and takes_rounds else []
        new, problem = run(name, BENCHMARKS[name], more)
        rows = merged(rows, [{**row, **facts} for row in new])
        write(rows)
        failed = failed or bool(problem)
        took = time.monotonic() - started
        print(f"{name}: {len(new)} rows in {took:.0f} s {problem}".rstrip(), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
