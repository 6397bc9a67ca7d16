"""Run a part of the test suite under each supported release: results/support.json.

    python -m tools.measure.support                   # all environments
    python -m tools.measure.support --only 2.10.0-numpy2

Each environment is a folder of ``.venv-releases``, made once and kept. Its Python is looked for on
PATH and in pyenv. Where the wanted one is missing, another that the release supports is taken, and
the table says which. A row of the record is replaced when its environment has run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mindcv_ghost.errors import UserError, tells_user_errors
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import source_commit, utc_now

__all__ = ["ENVIRONMENTS", "SUBJECTS", "Environment", "main", "subject_of", "summarise"]

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "support.json"
FOLDER = ROOT / ".venv-releases"
EXTRAS = ".[mpi,demo,test]"

# What must work under every release, and the tests that show it: a file, or one function of it.
SUBJECTS = {
    "train": (
        "tests/e2e/test_training.py::test_a_run_folder_holds_everything",
        "tests/e2e/test_training.py::test_the_learning_rate_ends_where_the_schedule_ends_under_accumulation",
        "tests/e2e/test_training.py::test_parameters_are_counted_without_bn_statistics",
        "tests/e2e/test_training.py::test_lines_not_a_bar_where_there_is_no_terminal_and_no_warnings_of_mindspore",
        "tests/engine/test_step.py",
    ),
    "validate": (
        "tests/e2e/test_training.py::test_validation_repeats_what_training_measured",
        "tests/e2e/test_training.py::test_a_validation_is_the_same_to_the_last_digit_whoever_makes_the_images",
        "tests/engine/test_evaluator.py",
        "tests/storage/test_checkpoint.py",
        "tests/storage/test_ckpt_format.py",
    ),
    "resume": (
        "tests/engine/test_exact_resume.py",
        "tests/run/test_resume.py",
        "tests/storage/test_resume_folder.py",
    ),
    "mpirun": (
        "tests/e2e/test_training.py::test_counts_are_the_same_for_any_ranks_and_batch_size",
        "tests/e2e/test_training.py::test_two_ranks_learn_as_one_with_twice_the_batch",
        "tests/e2e/test_training.py::test_msrun_trains_two_ranks_in_either_mode",
    ),
    "convert": ("tests/convert",),
    "ghostify": (
        "tests/e2e/test_ghostify.py",
        "tests/surgery/test_ghostify.py",
        "tests/surgery/test_fit.py",
    ),
    "native operators": (
        "tests/kernels/test_operators.py",
        "tests/kernels/test_layers.py",
        "tests/kernels/test_ghost_modules.py",
        "tests/kernels/test_momentum.py",
        "tests/kernels/test_networks.py",
        "tests/kernels/test_step.py",
    ),
    "versions": ("tests/test_compat.py", "tests/test_registry.py"),
}
_LEFT_OUT = "not slow and not zoo and not faults and not device and not parity and not fuzz"


@dataclass(frozen=True)
class Environment:
    """A virtual environment to test in.

    Args:
        name: the folder's name, and what ``--only`` takes.
        mindspore: the release.
        numpy: what pip may install.
        pythons: the releases of Python that the wheel is built for, the wanted one first.
    """

    name: str
    mindspore: str
    numpy: str
    pythons: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return FOLDER / self.name

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"


# Together they cover Python 3.9 to 3.12. Only 2.10 lets pip install NumPy 2.
ENVIRONMENTS = (
    Environment("2.7.2", "2.7.2", "numpy<2", ("3.9", "3.10", "3.11")),
    Environment("2.8.0", "2.8.0", "numpy<2", ("3.11", "3.10", "3.12", "3.9")),
    Environment("2.9.0", "2.9.0", "numpy<2", ("3.12", "3.11", "3.10", "3.9")),
    Environment("2.10.0", "2.10.0", "numpy<2", ("3.10", "3.11", "3.12")),
    Environment("2.10.0-numpy2", "2.10.0", "numpy>=2", ("3.12", "3.11", "3.10")),
)


def find_python(versions: Iterable[str]) -> Path | None:
    """Return the first interpreter of these versions that is on PATH or in pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        on_path = shutil.which(f"python{version}")
        candidates = [Path(on_path)] if on_path else []
        candidates += sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)
        for candidate in candidates:
            # pyenv's shim of a version that isn't chosen only prints an error.
            code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
            if done.returncode == 0 and done.stdout.strip() == version:
                return candidate
    return None


def prepare(environment: Environment) -> None:
    """Create an environment, or bring a kept one up to date with setup.py.

    Raises:
        UserError: if no suitable Python is installed, or pip fails.
    """
    requirements = [f"mindspore=={environment.mindspore}", environment.numpy]
    text = "\n".join([*requirements, EXTRAS, (ROOT / "setup.py").read_text(encoding="utf-8")])
    digest, stamp = hashlib.sha256(text.encode()).hexdigest(), environment.folder / "installed"
    if stamp.is_file() and stamp.read_text() == digest:
        return
    if not environment.python.exists():
        python = find_python(environment.pythons)
        if python is None:
            raise UserError(
                f"{environment.name} not run: no Python {' or '.join(environment.pythons)} with "
                "venv on PATH or in pyenv. Install one of them."
            )
        subprocess.run([python, "-m", "venv", environment.folder], check=True)
    print(f"{environment.name}: installing", flush=True)
    pip = [environment.python, "-m", "pip", "install", "--quiet"]
    done = subprocess.run([*pip, *requirements, "--editable", EXTRAS], cwd=ROOT)
    if done.returncode:
        raise UserError(f"{environment.name} not run: pip failed with status {done.returncode}")
    stamp.write_text(digest)


def run_tests(environment: Environment, workers: int) -> ElementTree.Element:
    """Run the tests in an environment; return pytest's report (JUnit XML).

    Raises:
        UserError: if pytest didn't come to the end: its report then has only what ran before.
    """
    report = environment.folder / "report.xml"
    report.unlink(missing_ok=True)
    command = [environment.python, "-m", "pytest", "-m", _LEFT_OUT, f"--junitxml={report}"]
    # A loaded machine shouldn't decide what a release can do.
    command += ["--timeout=900", "--tb=short"]
    # A file that can't be imported is a failure of its subject; the others are tested all the same.
    command += ["--continue-on-collection-errors"]
    command += [f"-n{workers}", "--dist=loadfile"] if workers > 1 else []
    tests = [test for subject in SUBJECTS.values() for test in subject]
    environ = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    with open(environment.folder / "tests.log", "w", encoding="utf-8") as log:
        done = subprocess.run([*command, *tests], cwd=ROOT, env=environ, stdout=log, stderr=log)
    if done.returncode not in (0, 1):  # all passed, or some failed
        raise UserError(
            f"{environment.name} not recorded: pytest ended with status {done.returncode} before "
            f"all tests had run; see {log.name}"
        )
    if not report.is_file():
        raise UserError(f"{environment.name} not recorded: pytest wrote no report; see {log.name}")
    return ElementTree.parse(report).getroot()


def subject_of(path: str, function: str) -> str:
    """Return the subject that a test belongs to; without a function, the first of its file.

    >>> subject_of("tests/convert/test_convert.py", "test_names")
    'convert'
    """
    for subject, tests in SUBJECTS.items():
        for test in tests:
            file, _, name = test.partition("::")
            chosen = not function or name in ("", function)
            if (path == file or path.startswith(f"{file}/")) and chosen:
                return subject
    raise KeyError(f"{path}::{function}")


def summarise(report: ElementTree.Element) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Count each subject's passed, failed and skipped tests, and name those that failed."""
    counts = {subject: Counter(passed=0, failed=0, skipped=0) for subject in SUBJECTS}
    failures = []
    for case in report.iter("testcase"):
        # A file that can't be imported is a case without a class, whose name is the module's.
        module, name = case.get("classname"), case.get("name", "")
        if not module:
            module, name = name, ""
        path = module.replace(".", "/") + ".py"
        states = {child.tag for child in case}
        if states & {"failure", "error"}:
            failures.append(f"{path}::{name}" if name else path)
        state = "failed" if states & {"failure", "error"} else "passed"
        state = "skipped" if "skipped" in states else state
        counts[subject_of(path, name.partition("[")[0])][state] += 1
    return {subject: dict(count) for subject, count in counts.items()}, failures


def measure(environment: Environment, workers: int) -> dict:
    """Prepare an environment, test there, and return its row of the record."""
    prepare(environment)
    versions = "import json; from mindcv_ghost import compat; "
    versions += "print(json.dumps(compat.installed_versions()))"
    answer = subprocess.run(
        [environment.python, "-c", versions], cwd=ROOT, capture_output=True, text=True, check=True
    )
    print(f"{environment.name}: testing", flush=True)
    report = run_tests(environment, workers)
    subjects, failures = summarise(report)
    row = {"environment": environment.name, **json.loads(answer.stdout)}
    row |= {"subjects": subjects, "failures": failures}
    row |= {
        "seconds": round(sum(float(suite.get("time", 0)) for suite in report.iter("testsuite")))
    }
    return {**row, "date": utc_now(), "hardware": describe_hardware(), "commit": source_commit()}


def record(row: dict) -> None:
    """Replace an environment's row, or add it."""
    rows = json.loads(OUT.read_text("utf-8"))["rows"] if OUT.is_file() else []
    order = [environment.name for environment in ENVIRONMENTS]
    rows = [other for other in rows if other["environment"] in order]  # renamed ones are dropped
    rows = [other for other in rows if other["environment"] != row["environment"]] + [row]
    rows.sort(key=lambda row: order.index(row["environment"]))
    write_text(OUT, json.dumps({"kind": "support", "rows": rows}, indent=2) + "\n")


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Test under each release; return 1 if a test failed or an environment wasn't recorded."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.support")
    names = [environment.name for environment in ENVIRONMENTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    failed = False
    for environment in ENVIRONMENTS:
        if environment.name not in arguments.only:
            continue
        try:
            row = measure(environment, arguments.workers)
        except UserError as problem:
            print(problem, flush=True)
            failed = True
            continue
        record(row)
        total = sum((Counter(count) for count in row["subjects"].values()), Counter())
        print(
            f"{environment.name}: {total['passed']} passed, {total['failed']} failed, "
            f"{total['skipped']} skipped with Python {row['python']}, NumPy {row['numpy']} in "
            f"{row['seconds']} s",
            *row["failures"],
            sep="\n  ",
            flush=True,
        )
        failed |= bool(row["failures"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
