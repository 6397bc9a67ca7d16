"""Both continuous integrations run the same targets, and each target is documented."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
CI_RUN = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
TARGETS = re.findall(r"^make ([\w-]+)$", CI_RUN, re.MULTILINE)
TARGETS += re.search(r"^for target in ([\w -]+); do$", CI_RUN, re.MULTILINE)[1].split()


def job() -> dict:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    [job] = workflow["jobs"].values()
    return job


def test_the_workflow_runs_the_targets_of_ci_run():
    assert job()["strategy"]["matrix"]["target"] == TARGETS
    assert job()["steps"][-1]["run"] == "make ${{ matrix.target }}"
    assert len(TARGETS) >= 7


def test_each_target_is_in_the_makefile_and_in_make_help():
    defined = re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE)
    documented = re.findall(r'^\t@echo "make ([\w-]+) ', MAKEFILE, re.MULTILINE)
    assert set(TARGETS) <= set(defined)
    assert set(TARGETS) <= set(documented)


def test_dockerfile_and_workflow_have_the_packages_that_ci_run_installs():
    installed = re.findall(r"\|\| install ([\w+ -]+?)(?= \|\||$)", CI_RUN, re.MULTILINE)
    packages = set(" ".join(installed).split())
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    steps = " ".join(step.get("run", "") for step in job()["steps"])
    of_the_runner = {"chromium", "npm"}  # GitHub's Ubuntu brings Chrome and npm
    packages.remove("nodejs")  # instead of npm
    own = {"g++", "make", "iproute2", "zsh", "fish", "dataset-fashion-mnist"}
    assert packages == own | of_the_runner
    assert packages <= set(re.split(r"[\s\\]+", dockerfile))
    assert packages - of_the_runner <= set(re.split(r"[\s\\]+", steps))


def test_where_tests_may_not_be_skipped_both_say_so():
    exported = re.findall(r"^export (MINDCV_GHOST_\w+)=1$", CI_RUN, re.M)
    assert exported == ["MINDCV_GHOST_NEEDS_BROWSER", "MINDCV_GHOST_NEEDS_FASHION_MNIST"]
    assert job()["env"] == dict.fromkeys(exported, "1")


def test_the_devcontainer_uses_a_stage_of_the_dockerfile():
    build = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())["build"]
    dockerfile = ROOT / ".devcontainer" / build["dockerfile"]
    stages = re.findall(r"^FROM \S+ AS (\w+)$", dockerfile.read_text(), re.MULTILINE)
    assert build["target"] in stages


def test_linters_are_pinned_and_the_same_as_in_pre_commit():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    used = {hook["entry"].split()[0] for hook in hooks}
    lint = MAKEFILE.partition("\nlint:")[2].partition("\n\n")[0]
    assert used == set(re.findall(r"\$\(BIN\)/(\w+)", lint)) == {"ruff", "mypy", "vulture"}
    for name in used:
        assert re.search(rf'"{name}==[\d.]+["; ]', setup), name
