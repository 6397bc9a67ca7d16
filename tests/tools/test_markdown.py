"""A cell with a bar stays one cell, whichever table it is in."""

from __future__ import annotations

import re

import pytest

from tools.pages import benchmarks, profile, releases, support
from tools.pages.markdown import table

FACTS = {"machine": "a CPU|B", "versions": "x 1", "commit": "abc", "date": "2026-01-01"}


def benchmark() -> str:
    row = {"benchmark": "a", "case": "4|8 images", "unit": "s", "rival": "timm|MindCV"}
    row |= {"value": 1.0, "rival_value": None, "ratio": None, "goal": "", "met": "", **FACTS}
    return benchmarks.benchmark_tables([row])


def operators() -> str:
    row = {"operators": "stock", "part": profile.HEAD, "operator": "mean|loss", "ms": 2.0}
    return profile.operator_table([{**row, "case": "a", **FACTS}])


def release_times() -> str:
    row = {"mindspore": "2.8|2.9", "batch": "4", "side": "128", **FACTS}
    kinds = ("stock", "native")
    return releases.releases_table([{**row, "operators": kind, "seconds": 1.0} for kind in kinds])


def environments() -> str:
    packages = dict(mindspore="2.8|2.9", python="3.11", numpy="1.26", mindcv="0.3.0")
    subjects = {"train|validate": {"passed": 1, "failed": 0, "skipped": 0}}
    return support.support_table([{**packages, "subjects": subjects, "hardware": "a CPU", **FACTS}])


@pytest.mark.parametrize(
    "make, columns, bars",
    [
        (lambda: table(("a|b", "c"), [(1, "x|y")]), 2, 2),
        (benchmark, 5, 3),
        (operators, 4, 2),
        (release_times, 4, 1),
        (environments, 5, 2),
    ],
)
def test_a_bar_in_a_cell_is_escaped_and_begins_no_column(make, columns, bars):
    lines = [line for line in make().splitlines() if line.startswith("| ")]
    assert len(lines) == 3
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [columns + 1] * 3
    assert "".join(lines).count("\\|") == bars
