"""docs/add_a_model.md, followed to the letter in a copy of the project."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def block(language: str) -> str:
    page = (ROOT / "docs" / "add_a_model.md").read_text(encoding="utf-8")
    found = re.search(rf"^( *)```{language}\n(.*?)^\1```", page, re.DOTALL | re.MULTILINE)
    return textwrap.dedent(found[2])


def run(project: Path, *argv: str) -> str:
    environ = {**os.environ, "PYTHONPATH": str(project), "GLOG_v": "3"}
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=project,
        env=environ,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.zoo
def test_page_leads_to_a_model_that_passes_the_zoos_tests_and_trains(tmp_path):
    project = tmp_path / "project"
    names = [".git", ".venv*", "runs", "__pycache__", "*.egg-info", ".hypothesis", ".*_cache"]
    ignored = shutil.ignore_patterns(*names)
    whole = {str(ROOT / name) for name in ("data", "build", "dist")}  # mindcv_ghost/data isn't it

    def ignore(folder: str, entries: list[str]) -> set[str]:
        return ignored(folder, entries) | {
            name for name in entries if os.path.join(folder, name) in whole
        }

    shutil.copytree(ROOT, project, ignore=ignore)
    models = project / "mindcv_ghost" / "models"
    (models / "ghost_lenet.py").write_text(block("python"), encoding="utf-8")
    names = models / "__init__.py"
    names.write_text(
        names.read_text(encoding="utf-8")
        + "\nfrom mindcv_ghost.models import ghost_lenet  # noqa\n",
        encoding="utf-8",
    )
    recipe = project / "configs" / "ghostnet" / "ghost_lenet_digits.yaml"
    recipe.write_text(block("yaml"), encoding="utf-8")

    tests = run(
        project, "-m", "pytest", "-m", "zoo", "-k", "ghost_lenet", "tests/models/test_zoo.py"
    )
    assert re.search(r"\b5 passed", tests), tests
    assert re.search(r"\b1 passed", run(
        project, "-m", "pytest", "-k", "ghost_lenet and loads", "tests/repository/test_recipes.py"
    ))  # fmt: skip
    run(project, "train.py", "--config", str(recipe), "--ckpt_save_dir", str(tmp_path / "run"))
    facts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert facts["model"] == "ghost_lenet" and (tmp_path / "run" / "best.ckpt").is_file()
