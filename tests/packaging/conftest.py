"""A copy of what packages are built of, so that building writes nothing into the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md")
FILES += ("train.py", "validate.py", "export.py", "infer.py")


def start(*words: object, cwd: Path, timeout: int = 280, **environ: str) -> str:
    """Run a command, which must succeed; return its standard output."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "project"
    folder.mkdir()
    for name in FILES:
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("mindcv_ghost", "configs"):
        ignored = shutil.ignore_patterns("__pycache__", "*.png")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def build(sources: Path, out: Path, *words: str, timeout: int = 280, **environ: str) -> list[Path]:
    """Build without network; return the files, sorted by name."""
    command = [sys.executable, "-m", "build", "--no-isolation", *words, "--outdir", out, sources]
    start(*command, cwd=out.parent, timeout=timeout, **environ)
    return sorted(out.iterdir())
