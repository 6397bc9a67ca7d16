"""The performance page's profile: tables and chart of profile.csv."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mindcv_ghost.report import ReportError
from tools.pages import profile
from tools.pages.charts import source_digest

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"peak_gflops": 200, "peak_gbytes": 40, "case": "n, training, 2 images of 8x8"}
FACTS |= {"machine": "a CPU", "versions": "x 1", "commit": "abc", "date": "2026-01-01"}


def row(operators, part, operator, ms, gflop="", mbytes=""):
    values = (operators, part, operator, ms, gflop, mbytes)
    return {**dict(zip(profile.COLUMNS, values)), **FACTS}


ROWS = [
    row("limit", profile.FORWARD, "", 100, 20, 8),
    row("limit", profile.TAILS, "", 10, 1, 400),
    row("stock", profile.FORWARD, "convolutions", 300),
    row("stock", profile.TAILS, "BN", 50),
    row("stock", profile.TAILS, "ReLU", 0.5),
    row("native", profile.FORWARD, "convolutions", 150),
    row("native", profile.TAILS, "ghost_tail", 25),
    row("native", profile.BETWEEN, "starting operators", 8),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "profile.csv"
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, profile.COLUMNS)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_each_part_has_its_times_its_limit_and_what_sets_the_limit(file):
    text = profile.part_table(profile.read_profile(file))
    assert f"| {profile.FORWARD} | 300.0 | 150.0 | 100.0 | 20 GFLOP | 1.5 |" in text
    assert f"| {profile.TAILS} | 50.5 | 25.0 | 10.0 | 400 MB | 2.5 |" in text
    assert f"| {profile.BETWEEN} | 0.0 | 8.0 | – | – | – |" in text
    assert "| **all** | 350.5 | 183.0 | 110.0 | – | 1.7 |" in text
    assert "200 GFLOP/s or move 40 GB/s" in text and "a CPU; x 1; commit abc." in text
    assert profile.OPTIMIZER not in text


def test_operators_are_sorted_by_part_and_time_and_those_below_1_ms_left_out(file):
    lines = profile.operator_table(profile.read_profile(file)).splitlines()[2:]
    assert [line.split(" | ")[2] for line in lines] == [
        *("convolutions", "BN"),
        *("convolutions", "ghost_tail", "starting operators"),
    ]


def test_machines_stand_side_by_side(file):
    rows = profile.read_profile(file)
    more = [{**row, "machine": "another", "ms": 2 * row["ms"]} for row in rows]
    text = profile.part_table([*rows, *more])
    assert f"| {profile.FORWARD} | 300.0 | 150.0 | 100.0 |" in text
    assert f"| {profile.FORWARD} | 600.0 | 300.0 | 200.0 |" in text
    operators = profile.operator_table([*rows, *more])
    assert "| operator | a CPU (ms) | another (ms) |" in operators
    assert "| convolutions | 300.0 | 600.0 |" in operators
    assert "| ReLU | – | 1.0 |" in operators


def test_without_a_profile_the_tables_say_not_measured(tmp_path):
    assert profile.read_profile(tmp_path / "none.csv") == []
    assert profile.part_table([]) == profile.operator_table([]) == "not measured\n"


@pytest.mark.parametrize(
    ("old", "new"), [("limit", "guess"), (profile.TAILS, "Tails"), ("20", "many"), ("ms", "s")]
)
def test_a_damaged_profile_is_refused_with_its_line(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ReportError, match=r"profile\.csv, line [23]: "):
        profile.read_profile(file)


def test_the_chart_ends_with_the_digest_of_its_profile(file, tmp_path):
    pytest.importorskip("matplotlib")
    assert profile.main([str(file), str(tmp_path / "chart.png")]) == 0
    assert (tmp_path / "chart.png").read_bytes().endswith(source_digest(file).encode())


def test_the_committed_chart_is_of_the_committed_profile():
    digest = source_digest(ROOT / "benchmarks" / "profile.csv")
    png = ROOT / "docs" / "performance_profile.png"
    assert png.read_bytes().endswith(digest.encode()), "stale: make bench draws it anew"
