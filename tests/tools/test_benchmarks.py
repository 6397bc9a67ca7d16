"""The performance page shows results.csv, also where a rival is faster."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mindcv_ghost.report import ReportError
from tools.pages.benchmarks import (
    COLUMNS,
    benchmark_tables,
    draw_chart,
    main,
    meets,
    read_results,
    scaling_table,
)
from tools.pages.charts import source_digest

ROOT = Path(__file__).resolve().parents[2]
WHERE = {"command": "a.py", "machine": "a CPU, 2 cores", "versions": "x 1", "commit": "abc"}
WHERE["date"] = "2026-01-01"


def row(
    benchmark, case, value, unit="images/s", rival="", rival_value="", ratio="", goal="", met=""
):
    found = dict(zip(COLUMNS, (benchmark, case, value, unit, rival, rival_value, ratio, goal, met)))
    return {**found, **WHERE}


ROWS = [
    row("JPEG to batch", "training, 1 worker", 800, "images/s", "timm", 400, 2.0, ">= 2", "yes"),
    row("JPEG to batch", "evaluation", 300, "images/s", "a folder reader", 400, 0.75),
    row(
        "Data parallel", "m, global batch 64, 2 ranks of a core", 40, "images/s", "1 rank", 50, 0.8
    ),
    row("Data parallel", "all-reduce of 10.00 M float32, 2 ranks", 0.1, "s"),
]


@pytest.fixture
def results(tmp_path):
    path = tmp_path / "results.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_a_ratio_below_1_and_a_missed_goal_are_bold(results):
    rows = read_results(results)
    text = benchmark_tables(rows)
    assert "| case | rival | unit | goal | a CPU, 2 cores |" in text
    assert "| training, 1 worker | timm | images/s | >= 2 | 2.00 (800 / 400) |" in text
    assert "| evaluation | a folder reader | images/s | – | **0.75** (300 / 400) |" in text
    assert "a CPU, 2 cores: x 1; commit abc." in text
    assert "- a CPU, 2 cores: 1 of 1 goals are met.\n" in text
    unmet = benchmark_tables([{**rows[0], "ratio": 1.5, "met": "no"}])
    assert "| >= 2 | 1.50 (800 / 400) **missed** |" in unmet
    assert "- a CPU, 2 cores: 0 of 1 goals are met.\n" in unmet
    assert "  - **missed**: training, 1 worker: 1.50 times timm, goal >= 2\n" in unmet


def test_machines_stand_side_by_side_and_each_names_its_missed_goals(results):
    rows = read_results(results)
    other = {**rows[0], "machine": "B, AVX2", "value": 500.0, "rival_value": 400.0, "ratio": 1.25}
    text = benchmark_tables([*rows, {**other, "met": "no"}])
    assert "| goal | B, AVX2 | a CPU, 2 cores |" in text
    assert "| >= 2 | 1.25 (500 / 400) **missed** | 2.00 (800 / 400) |" in text
    assert "| evaluation | a folder reader | images/s | – | – | **0.75** (300 / 400) |" in text
    assert "- B, AVX2: 0 of 1 goals are met.\n  - **missed**: training, 1 worker: 1.25" in text
    assert "- a CPU, 2 cores: 1 of 1 goals are met.\n\n" in text
    scaling = scaling_table([*rows, {**other, "benchmark": "JPEG to batch"}])
    assert scaling.startswith("a CPU, 2 cores. Measured: ") and "B, AVX2" not in scaling


@pytest.mark.parametrize(
    ("goal", "ratio", "value", "met"),
    [
        (">= 2", 2.0, 0, "yes"),
        (">= 2", 1.99, 9, "no"),
        ("<= 0.33", None, 0.3, "yes"),
        ("<= 0.33", None, 0.34, "no"),
        ("", 1.0, 1.0, ""),
    ],
)
def test_a_goal_is_for_the_ratio_or_without_a_rival_for_the_value(goal, ratio, value, met):
    assert meets(goal, ratio, value) == met


def test_a_goal_that_cannot_be_read_is_an_error():
    with pytest.raises(ReportError, match="'twice'"):
        meets("twice", 1.0, 1.0)


def test_scaling_follows_the_ring_formula(results):
    # A step of 64 / 40 = 1.6 s, 0.1 of it the all-reduce: 1.5 s of computing with 32 images.
    text = scaling_table(read_results(results))
    for devices in (8, 64, 512):
        reduced = 0.1 * 2 * (devices - 1) / devices
        speed = devices * 32 / (1.5 + reduced)
        line = f"| {devices} | {reduced:.3f} | {1.5 + reduced:.3f} | {speed:.0f} | "
        assert (
            f"{line}{1.5 / (1.5 + reduced):.2f} | {speed:.0f} images/s, {speed / 800:.1f}" in text
        )
    assert "0.40 GB/s" in text  # 10 M x 4 bytes in 0.1 s


def test_without_measurements_the_tables_say_not_measured():
    assert scaling_table([]) == "not measured\n" == benchmark_tables([])


def test_an_all_reduce_longer_than_its_step_is_an_error(results):
    rows = read_results(results)
    rows[3]["value"] = 2.0
    with pytest.raises(ReportError, match="longer than the step"):
        scaling_table(rows)


@pytest.mark.parametrize(
    "damage", [lambda t: t.replace("800", "fast"), lambda t: t.replace("value", "worth", 1)]
)
def test_a_damaged_file_is_refused_with_its_line(results, damage):
    results.write_text(damage(results.read_text()))
    with pytest.raises(ReportError, match="line 2"):
        read_results(results)


def test_the_chart_ends_with_the_digest_of_its_results(results, tmp_path):
    pytest.importorskip("matplotlib")
    assert main([str(results), str(tmp_path / "chart.png")]) == 0
    data = (tmp_path / "chart.png").read_bytes()
    assert data.startswith(b"\x89PNG") and data.endswith(source_digest(results).encode())
    draw_chart(results, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == data


def test_the_committed_chart_is_of_the_committed_results():
    rows = read_results(ROOT / "benchmarks" / "results.csv")
    png = ROOT / "docs" / "performance.png"
    if not any(row["ratio"] is not None for row in rows):
        assert not png.exists()
        return
    digest = source_digest(ROOT / "benchmarks" / "results.csv")
    assert png.read_bytes().endswith(digest.encode()), "stale: make bench draws it anew"
