"""The recorded counts are those of the networks that this package builds."""

from __future__ import annotations

import pytest

from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from tests.tools.test_tables import ROOT
from tools.measure.count_models import count, count_registered, count_row, zoo
from tools.pages.zoo_tables import paper_tables

FILE = read_json(ROOT / "results" / "complexity.json")
COUNTED = FILE["models"]


def test_every_depth_is_counted_for_both_ratios():
    found = {(entry["model"], entry["ratio"]) for entry in COUNTED}
    depths = (18, 34, 50, 101, 152)
    assert found == {(f"ghost_resnet{depth}", ratio) for depth in depths for ratio in (2, 4)}


def test_recorded_counts_are_those_of_the_network():
    assert count("ghost_resnet18", 4) in COUNTED


def test_every_model_is_counted_and_two_counts_are_reproduced():
    assert [entry["model"] for entry in FILE["registered"]] == zoo()
    assert count_registered("ghost_resnet20_cifar") in FILE["registered"]
    row = {"model": "ghost_vgg16_cifar", "options": {"num_classes": 10, "ratio": 3}, "side": 32}
    assert count_row(row) in FILE["paper_rows"]


def test_row_of_the_paper_that_differs_needs_a_reason():
    paper = read_json(ROOT / "results" / "paper_tables.json")
    rows = [title_and_rows[1] for title_and_rows in paper_tables(paper, FILE["paper_rows"])]
    assert sum(len(table) for table in rows) == len(FILE["paper_rows"]) == 20
    # All rows for VGG-16 agree, baseline and the common one twice: eight networks.
    assert {row[-1] for row in rows[0] + rows[1]} == {"agrees"}
    paper["tables"][0]["rows"][1]["params_m"] = "7.5"
    with pytest.raises(ReportError, match="d = 1: differs without a reason"):
        paper_tables(paper, FILE["paper_rows"])
    paper["tables"][0]["rows"][1]["params_m"] = "7.6"
    paper["tables"][0]["rows"][1]["reason"] = "none needed"
    with pytest.raises(ReportError, match="d = 1: agrees with the paper, but has a reason"):
        paper_tables(paper, FILE["paper_rows"])
