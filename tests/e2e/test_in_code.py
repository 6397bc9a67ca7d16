"""Programs of users who don't use train.py, as subprocesses: those of docs/acceleration.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "acceleration.md").read_text(encoding="utf-8")
PROGRAM, UNDO, WITH = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(LINE,) = re.findall(r"```text\n(.*?)\n```", PAGE, re.DOTALL)
TRAIN = """
def train(network):
    print(f"{step(images, labels).asnumpy():.3f}")

"""


def run(tmp_path: Path, program: str) -> list[str]:
    """Run a program; its lines. Python must end without a word on standard error."""
    script = tmp_path / "program.py"
    script.write_text(program, encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "GLOG_v": "3"}
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    return done.stdout.splitlines()


def check(lines: list[str], trained: int) -> None:
    report, *losses = lines
    assert report.startswith("native operators for ")
    assert len(losses) == trained
    assert float(losses[-1]) < float(losses[0])  # it learns its eight images


HEAD = """
from tests.helpers.tiny_network import register_tiny
register_tiny("tiny", side=64)
"""


def test_the_pages_program_trains_undoes_and_exports(tmp_path):
    tiny = HEAD + PROGRAM.replace("ghost_resnet50", "tiny")
    lines = run(tmp_path, tiny + UNDO + TRAIN + WITH)
    check(lines, trained=4)
    assert (tmp_path / "network.mindir").stat().st_size > 10_000


@pytest.mark.slow
def test_the_pages_program_prints_what_the_page_says(tmp_path):
    lines = run(tmp_path, PROGRAM)
    check(lines, trained=3)
    # The number of threads is the machine's.
    assert lines[0].rpartition(",")[0] == LINE.rpartition(",")[0]
