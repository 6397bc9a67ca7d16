"""The inference benchmark attributes time to parts, and sets int8's goal only with VNNI."""

from __future__ import annotations

import json

import pytest
from onnx import helper

from benchmarks.inference import NAMES, ROWS, RUNS, part_of, parts_of, print_parts, print_ratios


def rows(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_each_node_s_median_counts_for_its_part():
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "dense"),
        helper.make_node("Conv", ["a", "v"], ["b"], "cheap", group=8),
        helper.make_node("Concat", ["a", "b"], ["c"], "join", axis=1),
    ]

    def event(name: str, kind: str, microseconds: int) -> dict:
        args = {"op_name": kind}
        return {"cat": "Node", "name": name, "dur": microseconds, "args": args}

    events = [
        {"cat": "Session", "name": "model_run", "dur": 9999},
        *(event("dense_kernel_time", "Conv", each) for each in (900, 2000, 1000)),
        *(event("cheap_kernel_time", "Conv", each) for each in (300, 300, 300)),
        event("cheap_fence_before", "Conv", 5000),
        event("join_kernel_time", "Concat", 50),
    ]
    assert parts_of(events, nodes) == {
        "dense convolutions": 1.0,
        "depthwise convolutions": 0.3,
        "concatenations": 0.05,
    }


@pytest.mark.parametrize("kind", ["QLinearAdd", "NhwcMaxPool", "Gemm", "ReorderInput"])
def test_the_rest_is_one_part(kind):
    assert part_of(kind, 1) == "sums, ReLU, pooling, classifier, layout"


@pytest.mark.parametrize("vnni, goal, met", [(True, ">= 1.5", 2.0), (False, "", 2.0)])
def test_ratios_are_medians_within_a_round_and_int8_has_a_goal_with_vnni(vnni, goal, met, capsys):
    def a_round(load: float) -> dict:
        fast = dict.fromkeys(map(str, RUNS), 0.010 * load)
        slow = dict.fromkeys(map(str, RUNS), 0.020 * load)
        return {"ort": slow, "ort-int8": fast}

    print_ratios([a_round(1), a_round(10), a_round(1)], 224, vnni)
    found = rows(capsys)
    assert [row["case"].rpartition(", ")[2] for row in found] == [
        "1 image of 224x224",
        "8 images of 224x224",
        "32 images of 224x224",
    ]
    assert all((row["value"], row["rival_value"], row["ratio"]) == (10, 20, met) for row in found)
    assert {row["goal"] for row in found} == {goal}


def test_every_compared_participant_exists():
    assert {name for row in ROWS for name in row[:2]} == set(NAMES)


def test_parts_and_nodes_become_rows(capsys):
    parts = {"dense convolutions": 4.0, "concatenations": 1.0}
    parent = {"dense convolutions": 8.0}
    profiles = {
        "ort": {"nodes": 176, "parts": parts},
        "ort-int8": {"nodes": 180, "parts": parts},
        "parent": {"nodes": 70, "parts": parent},
        "parent-int8": {"nodes": 70, "parts": parent},
        "torch-export": {"nodes": 178, "parts": parts},
    }
    print_parts(profiles, 224)
    found = rows(capsys)
    assert [(row["value"], row["rival_value"], row["ratio"]) for row in found[:2]] == [
        (4.0, 8.0, 2.0),
        (1.0, None, None),
    ]
    assert (found[-1]["value"], found[-1]["rival_value"], found[-1]["goal"]) == (176, 178, ">= 1")
