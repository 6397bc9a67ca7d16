"""The counts on the model page are those of the networks that this package builds."""

from __future__ import annotations

from mindcv_ghost.report.record import read_json
from tests.report.test_tables import ROOT

COUNTED = read_json(ROOT / "results" / "complexity.json")["models"]


def test_every_depth_is_counted_for_both_ratios():
    found = {(entry["model"], entry["ratio"]) for entry in COUNTED}
    depths = (18, 34, 50, 101, 152)
    assert found == {(f"ghost_resnet{depth}", ratio) for depth in depths for ratio in (2, 4)}


def test_recorded_counts_are_those_of_the_network():
    from tools.count_models import count

    assert count("ghost_resnet18", 4) in COUNTED
