"""Seconds of a training step under another release of MindSpore, on stock and native operators.

`make bench` measures only the release that is installed. Run this by a Python that has another one.
2.9 and 2.10 compute dense convolutions with a slow kernel, which the native operators don't use.

    /path/to/another/venv/bin/python benchmarks/releases.py [--batch 4] [--side 128]

replaces this release's rows in benchmarks/releases.csv, of which docs/versions.md has a table. All
rows of a file are of one machine, size and commit: begin another with --csv.
Predicted: a native step takes as long as under 2.8.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.harness import ROOT, provenance  # noqa: E402
from mindcv_ghost.errors import tells_user_errors  # noqa: E402
from mindcv_ghost.storage.atomic_file import write_text  # noqa: E402
from tools.pages.releases import COLUMNS, check_comparable, read_releases  # noqa: E402


def measure(who: str, steps: int, batch: int, side: int) -> float:
    """Return the seconds of a step, measured in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "train_step.py"), "--only", who]
    command += ["--case", "training", f"--steps={steps}", f"--batch={batch}", f"--side={side}"]
    environ = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise SystemExit(f"{who} operators failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])["seconds"]


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Measure stock and native operators; write their rows; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--csv", type=Path, default=ROOT / "benchmarks" / "releases.csv")
    args = parser.parse_args(argv)
    release, facts = metadata.version("mindspore"), provenance()
    same = {"batch": str(args.batch), "side": str(args.side), **facts}
    rows = [row for row in read_releases(args.csv) if row["mindspore"] != release]
    check_comparable([*rows, same])  # before minutes of measuring
    for who, steps in (("native", 6), ("stock", 2)):
        seconds = measure(who, steps, args.batch, args.side)
        rows.append({"mindspore": release, "operators": who, "seconds": f"{seconds:.4g}", **same})
        print(f"MindSpore {release}, {who} operators: {seconds:.4g} s a step", flush=True)
    rows.sort(key=lambda row: [int(part) for part in row["mindspore"].split(".")])
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(args.csv, out.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
