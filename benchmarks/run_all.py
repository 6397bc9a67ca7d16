"""Run the benchmarks and write their rows to results.csv; ``make bench`` does this.

    python benchmarks/run_all.py [--only first_step pynative] [--quick --results trial.csv]

``jobs.py`` lists them and the time that each may take. Each knows its deadline and leaves out what
doesn't fit. A job that leaves rows out, fails or takes longer is recorded as failed. Rows that it
didn't measure anew are kept, with the commit and date of the run that measured them, and so are all
rows of other machines.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.harness import DEADLINE, NOTE, provenance  # noqa: E402
from benchmarks.jobs import JOBS, Job  # noqa: E402
from mindcv_ghost.data.native import library as images  # noqa: E402
from mindcv_ghost.kernels import library as kernels  # noqa: E402
from mindcv_ghost.native_build import Unavailable  # noqa: E402
from mindcv_ghost.storage.atomic_file import write_text  # noqa: E402
from tools.pages.benchmarks import COLUMNS, FAILED, meets  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results.csv"
# Seconds from a job's deadline until it is killed, in which it prints its rows and ends its
# processes. They are taken from the next job's time.
GRACE_SECONDS = 6


def run(job: Job, seconds: float, more: list[str]) -> tuple[list[dict], str]:
    """Run a job; return its rows, also if it ended early, and its problem or ""."""
    script, *arguments = f"{job.command} {job.effort}".split()
    path = ROOT / "benchmarks" / script
    if not path.is_file():
        return [], "there is no such benchmark"
    rows: list[dict] = []
    deadline = time.monotonic() + seconds
    # A file for standard error: nobody reads it while the job runs, and a pipe would fill up.
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        process = subprocess.Popen(
            [sys.executable, str(path), *arguments, *more],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
                DEADLINE: str(deadline),
            },
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        reader = threading.Thread(target=_collect, args=(process.stdout, rows), daemon=True)
        reader.start()
        problem = ""
        try:
            process.wait(max(0.0, deadline + GRACE_SECONDS - time.monotonic()))
        except subprocess.TimeoutExpired:
            problem = f"took longer than {seconds:.0f} s"
        finally:  # also if this program is stopped
            _kill(process)
        reader.join(10)
        if process.returncode and not problem:
            errors.seek(0)
            problem = (errors.read().strip().splitlines() or ["no message"])[-1]
            problem = f"exit status {process.returncode}: {problem[:300]}"
    return rows, problem or ("" if rows else "printed no row")


def _collect(lines, rows: list[dict]) -> None:
    for line in lines:
        if line.startswith("{"):
            row = json.loads(line)
            row["met"] = meets(row["goal"], row["ratio"], row["value"])
            rows.append(row)
            ratio = "" if row["ratio"] is None else f", ratio {row['ratio']}"
            print(f"    {row['case']}: {row['value']} {row['unit']}{ratio}", flush=True)
        elif line.startswith(NOTE):
            print(f"    {line.rstrip()}", flush=True)


def _kill(process: subprocess.Popen) -> None:
    """Kill a program and the processes that it has started; wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def merged(
    old: list[dict], new: list[dict], job: Job, problem: str, facts: dict[str, str]
) -> list[dict]:
    """Return all rows after a job.

    Args:
        old: the rows before it.
        new: the rows that the job has printed, which replace its old ones.
        job: the job.
        problem: its problem or "". If there is one, old rows that weren't measured anew are kept.
        facts: machine, versions, commit and date of this run.
    """
    names = ("benchmark", "case", "rival", "unit")
    measured = {tuple(row[name] for name in names) for row in new}

    def stays(row: dict) -> bool:
        if (row["command"], row["machine"]) != (job.command, facts["machine"]):
            return True
        again = tuple(row[name] for name in names) in measured
        return bool(problem) and row["benchmark"] != FAILED and not again

    rows = [row for row in old if stays(row)] + [
        {**row, "command": job.command, **facts} for row in new
    ]
    if problem:
        failure = {"benchmark": FAILED, "case": problem, "met": "no", "command": job.command}
        rows.append({**dict.fromkeys(COLUMNS, ""), **failure, **facts})
    order = [each.command for each in JOBS]
    return sorted(rows, key=lambda row: (row["benchmark"] == FAILED, order.index(row["command"])))


def write(path: Path, rows: list[dict]) -> None:
    """Write results.csv atomically."""
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: "" if row[name] is None else row[name] for name in COLUMNS} for row in rows
    )
    write_text(path, out.getvalue())


def build_operators() -> None:
    """Build this checkout's C++ unless the machine has it: no job's time is meant for that."""
    started = time.monotonic()
    try:
        kernels.load(threads=1)
        images.load()
    except Unavailable as reason:
        print(f"this package's C++ can't be built: {reason}", flush=True)
    print(f"this package's C++ was ready after {time.monotonic() - started:.1f} s", flush=True)


def main() -> int:
    """Run the jobs; return the exit status, 1 if a job failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="texts in the jobs' commands")
    parser.add_argument(
        "--quick", action="store_true", help="only try whether all jobs work; takes minutes"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file to update")
    args = parser.parse_args()
    if args.quick and args.results.resolve() == RESULTS:
        parser.error("--quick measures nothing worth keeping: give it another file with --results")
    for text in args.only:
        if not any(text in job.command for job in JOBS):
            commands = "".join(f"\n  {job.command}" for job in JOBS)
            parser.error(f"--only {text}: no job's command has this text. They are{commands}")
    facts = provenance("torch", "timm", "onnxruntime", "openvino")
    rows: list[dict] = []
    if args.results.is_file():
        with open(args.results, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    # Drop rows of jobs that no longer exist.
    rows = [row for row in rows if row.get("command") in {job.command for job in JOBS}]
    build_operators()
    failed, allowed, begun = [], 0.0, time.monotonic()
    jobs = [job for job in JOBS if any(text in job.command for text in args.only)]
    jobs.sort(key=lambda job: job.last)
    for number, job in enumerate(jobs, 1):
        print(f"{number}/{len(jobs)} {job.command}", flush=True)
        started = time.monotonic()
        allowed += job.seconds
        more = job.quick.split() if args.quick else []
        if args.quick and job.script == "profile_step":
            more += ["--csv", str(args.results.with_suffix(".profile.csv"))]
        new, problem = run(job, allowed - (started - begun), more)
        rows = merged(rows, new, job, problem, facts)
        write(args.results, rows)
        failed += [job.command] if problem else []
        took = time.monotonic() - started
        print(f"    {len(new)} rows in {took:.0f} s {problem}".rstrip(), flush=True)
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(jobs) - len(failed)} of {len(jobs)} done in {minutes:.1f} minutes", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # runs the finally in run()
    sys.exit(main())
