"""A temporary folder is removed with its process, or by the next process if that was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CODE = """
import sys
from mindcv_ghost.engine.graphs.scratch_folder import scratch_folder
folder = scratch_folder("ghost_test_")
(folder / "rank_0").mkdir()
print(folder, flush=True)
sys.stdin.read()
"""
pytest.importorskip("fcntl")


@pytest.fixture
def start(tmp_path):
    """Start a process with such a folder; it ends when its input does."""
    started = []

    def starter() -> tuple[subprocess.Popen, Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield starter
    for process in started:
        process.kill()
        process.communicate()


def test_the_folder_of_a_killed_process_is_removed_by_the_next(start, tmp_path):
    alive, its_folder = start()
    killed, left = start()
    assert its_folder.is_dir() and left.is_dir()
    killed.kill()
    killed.wait()
    assert left.is_dir()
    _, third = start()
    assert sorted(tmp_path.iterdir()) == sorted([its_folder, third])
    alive.communicate("")
    assert sorted(tmp_path.iterdir()) == [third]


def test_links_and_files_with_the_same_prefix_stay(start, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ghost_test_link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "ghost_test_file").write_text("")
    start()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"elsewhere", "ghost_test_link", "ghost_test_file"} < names
