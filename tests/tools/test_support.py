"""The tests that run under every release, their counts, and the table made of them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from mindcv_ghost.errors import UserError
from tools.measure import support
from tools.measure.support import ENVIRONMENTS, SUBJECTS, Environment, find_python, summarise
from tools.pages.support import calls_table, support_table

ROOT = Path(__file__).parents[2]
REPORT = """<testsuites><testsuite time="12.4">
<testcase classname="tests.convert.test_convert" name="test_names[a]"/>
<testcase classname="tests.convert.test_convert" name="test_more"><failure>x</failure></testcase>
<testcase classname="tests.engine.test_step" name="test_a"><error>setup</error></testcase>
<testcase classname="tests.engine.test_step" name="test_b"><skipped/></testcase>
</testsuite></testsuites>"""


def row(environment="2.8.0", **subjects):
    packages = {"mindspore": "2.8.0", "python": "3.11.7", "numpy": "1.26.4", "mindcv": "0.3.0"}
    facts = {"date": "2026-01-02T03:04:05", "hardware": "a CPU", "commit": "abc"}
    return {"environment": environment, **packages, "subjects": subjects, **facts}


def test_the_environments_cover_every_supported_release_and_python():
    assert {e.mindspore for e in ENVIRONMENTS} == {"2.7.2", "2.8.0", "2.9.0", "2.10.0"}
    assert {e.pythons[0] for e in ENVIRONMENTS} == {"3.9", "3.10", "3.11", "3.12"}
    assert {e.mindspore for e in ENVIRONMENTS if e.numpy == "numpy>=2"} == {"2.10.0"}


@pytest.mark.parametrize("test", [test for tests in SUBJECTS.values() for test in tests])
def test_every_chosen_test_exists(test):
    path, _, function = test.partition("::")
    assert (ROOT / path).exists()
    if function:
        assert re.search(rf"^def {function}\(", (ROOT / path).read_text(), re.MULTILINE)


def test_every_chosen_function_has_a_case_that_is_not_left_out(request):
    """The releases leave out what `make test` does; there, all files are collected."""
    collected = {item.nodeid.partition("[")[0] for item in request.session.items}
    files = {name.partition("::")[0] for name in collected}
    chosen = [test for tests in SUBJECTS.values() for test in tests if "::" in test]
    if request.config.option.keyword or not {test.partition("::")[0] for test in chosen} <= files:
        pytest.skip("not all tests are collected")
    assert [test for test in chosen if test not in collected] == []


def test_tests_are_counted_by_subject_and_failures_named():
    counts, failures = summarise(ElementTree.fromstring(REPORT))
    assert counts["convert"] == {"passed": 1, "failed": 1, "skipped": 0}
    assert counts["train"] == {"passed": 0, "failed": 1, "skipped": 1}
    assert failures == [
        "tests/convert/test_convert.py::test_more",
        "tests/engine/test_step.py::test_a",
    ]


def test_a_file_that_cannot_be_imported_is_a_failure_of_its_subject():
    report = '<testsuite><testcase classname="" name="tests.convert.test_convert"><error/>'
    counts, failures = summarise(ElementTree.fromstring(f"{report}</testcase></testsuite>"))
    assert counts["convert"] == {"passed": 0, "failed": 1, "skipped": 0}
    assert failures == ["tests/convert/test_convert.py"]


def test_rows_of_environments_that_no_longer_exist_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(support, "OUT", tmp_path / "support.json")
    support.OUT.write_text(json.dumps({"rows": [row("2.6.0"), row("2.8.0", convert={})]}))
    names = [environment.name for environment in ENVIRONMENTS]
    support.record(row(names[-1]))
    kept = json.loads(support.OUT.read_text())["rows"]
    assert [each["environment"] for each in kept] == [n for n in names if n in ("2.8.0", names[-1])]


def test_a_missing_python_is_named_and_nothing_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(support, "FOLDER", tmp_path / "made")
    assert find_python(["3.9"]) is None
    with pytest.raises(
        UserError, match=r"2\.8\.0 not run: no Python 3\.9 or 3\.10 with venv on PATH"
    ):
        support.prepare(Environment("2.8.0", "2.8.0", "numpy<2", ("3.9", "3.10")))
    assert not (tmp_path / "made").exists()


def test_a_row_replaces_that_of_the_same_environment(tmp_path, monkeypatch):
    monkeypatch.setattr(support, "OUT", tmp_path / "support.json")
    for each in (row("2.10.0"), row("2.8.0", old={}), row("2.8.0", new={})):
        support.record(each)
    rows = json.loads(support.OUT.read_text())["rows"]
    assert [(r["environment"], list(r["subjects"])) for r in rows] == [
        ("2.8.0", ["new"]),
        ("2.10.0", []),
    ]


@pytest.fixture
def environment_whose_pytest(tmp_path, monkeypatch):
    """Make the environment 2.8.0: its pytest reports one passed test and ends with a status."""
    monkeypatch.setattr(support, "FOLDER", tmp_path)
    monkeypatch.setattr(support, "OUT", tmp_path / "support.json")
    monkeypatch.setattr(support, "prepare", lambda environment: None)
    (tmp_path / "report.xml").write_text(
        '<testsuite time="1"><testcase classname="tests.convert.test_convert" name="test_a"/>'
        "</testsuite>"
    )
    packages = json.dumps({"mindspore": "2.8.0", "python": "3.11.7", "numpy": "1.26.4"})

    def make(status):
        python = tmp_path / "2.8.0" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(
            f"""#!/bin/sh
if [ "$1" = -c ]; then echo '{packages}'; exit; fi
for argument; do
    case "$argument" in
        --junitxml=*) cp {tmp_path}/report.xml "${{argument#--junitxml=}}" ;;
    esac
done
exit {status}
"""
        )
        python.chmod(0o755)

    return make


@pytest.mark.parametrize("status", [2, 3, 4, 5, 137])
def test_tests_that_did_not_come_to_their_end_replace_no_row(
    environment_whose_pytest, capsys, status
):
    environment_whose_pytest(status)
    support.record(row("2.8.0", convert={"passed": 40, "failed": 0, "skipped": 0}))
    before = support.OUT.read_text()
    assert support.main(["--only", "2.8.0"]) == 1
    assert support.OUT.read_text() == before
    told = capsys.readouterr().out
    assert f"2.8.0 not recorded: pytest ended with status {status} before all" in told
    assert "0 failed" not in told


@pytest.mark.parametrize("status", [0, 1])
def test_tests_that_came_to_their_end_are_recorded(environment_whose_pytest, status):
    environment_whose_pytest(status)
    support.main(["--only", "2.8.0"])
    (recorded,) = json.loads(support.OUT.read_text())["rows"]
    assert recorded["subjects"]["convert"] == {"passed": 1, "failed": 0, "skipped": 0}


def test_the_table_has_a_row_for_each_environment_and_marks_failures():
    good, bad = dict(passed=5, failed=0, skipped=1), dict(passed=4, failed=2, skipped=0)
    table = support_table([row(train=good, resume=bad)])
    assert "| MindSpore | Python | NumPy | MindCV | train | resume |" in table
    assert "| 2.8.0 | 3.11.7 | 1.26.4 | 0.3.0 | 5, 1 skipped | **2 of 6 failed** |" in table
    assert "a CPU, 2026-01-02, commit `abc`." in table
    assert support_table([]) == "not measured\n"


def test_the_table_of_calls_names_the_release_that_brought_each():
    assert "| `mindspore.set_device` | 2.5 |" in calls_table()
