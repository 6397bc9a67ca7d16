"""The table of docs/versions.md: a training step's time by MindSpore release."""

from __future__ import annotations

import csv

import pytest

from mindcv_ghost.report import ReportError
from tools.pages.releases import COLUMNS, read_releases, releases_table

FACTS = ("a CPU", "x 1", "abc", "2026-01-01")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "releases.csv"
    with open(path, "w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(COLUMNS)
        for release, stock, native in (("2.8.0", 0.5, 0.25), ("2.10.0", 6, 0.24)):
            writer.writerow((release, "stock", 4, 128, stock, *FACTS))
            writer.writerow((release, "native", 4, 128, native, *FACTS))
    return path


def test_each_release_has_both_times_and_their_ratio(file):
    text = releases_table(read_releases(file))
    assert "| 2.8.0 | 0.50 | 0.25 | 2.0 |\n| 2.10.0 | 6.00 | 0.24 | 25.0 |" in text
    assert "4 images of 128x128, a CPU, commit abc." in text


def test_without_a_file_the_table_says_not_measured(tmp_path):
    assert releases_table(read_releases(tmp_path / "none.csv")) == "not measured\n"


def test_a_damaged_file_is_refused_with_its_line(file):
    file.write_text(file.read_text().replace("0.5", "fast", 1))
    with pytest.raises(ReportError, match="line 2"):
        read_releases(file)


@pytest.mark.parametrize(("told", "value"), [("machine", "another CPU"), ("batch", "8")])
def test_times_of_two_machines_or_sizes_are_not_compared(file, told, value):
    first, *rest, last = file.read_text().splitlines()
    before = {"machine": "a CPU", "batch": ",4,"}[told]
    after = value if told == "machine" else f",{value},"
    file.write_text("\n".join((first, *rest, last.replace(before, after))) + "\n")
    with pytest.raises(ReportError, match=f"2 values of {told}: .*; {value}"):
        read_releases(file)
