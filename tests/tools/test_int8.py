"""The tables of docs/int8.md say what was recorded, and mark what int8 makes slower."""

from __future__ import annotations

import pytest

from tools.pages.int8 import (
    int8_kinds_table,
    int8_networks_table,
    int8_schemes_table,
    int8_trials_table,
)

EMPTY = {"networks": [], "schemes": []}


def network(model: str, excluded: list[str]) -> dict:
    record = {"scheme": "U8S8 per channel", "calibration": "Entropy", "excluded": excluded}
    record |= {"top1_float32": 98.889, "top1_int8": 98.611}
    kind = {"kind": "cheap", "layers": 52, "median_db": 76.0, "worst_db": 51.5}
    kind |= {"per_tensor_median_db": 60.0, "per_tensor_worst_db": None}
    return {
        "model": model,
        "record": record,
        "layers": 106,
        "trials": [{"method": "MinMax", "excluded": 0, "accuracy": 97.5, "sqnr_db": 20.04}],
        "images": 360,
        "agreement": 99.722,
        "bytes_float32": 47_900_000,
        "bytes_int8": 12_300_000,
        "per_tensor": {"top1": 98.333, "sqnr_db": 17.8},
        "sqnr_db": 20.5,
        "kinds": [kind, {**kind, "kind": "primary", "median_db": 50.0}],
    }


RESULT = {
    "hardware": "a CPU",
    "versions": "onnxruntime 1.32.0",
    "commit": "abc",
    "date": "2026-11-29T05:00:00Z",
    "threads": 2,
    "calibration_images": 256,
    "networks": [network("one", []), network("two", ["stem/Conv"])],
    "schemes": [
        {
            "model": "one",
            "runtime": "openvino",
            "isa": "AVX2",
            "rows": [
                {"scheme": "float32", "ms": 20.0, "ratio": 1.0, "sqnr_db": None},
                {"scheme": "S8S8 per channel", "ms": 40.0, "ratio": 0.5, "sqnr_db": 15.04},
            ],
        }
    ],
}


def test_a_network_s_row_has_accuracy_size_and_what_stayed_in_float32():
    table = int8_networks_table(RESULT)
    cells = "98.89 | 98.61 | 99.72 | 20.5 | Entropy | 1 of 106 | 47.9 -> 12.3 | 98.33 | 17.8"
    assert f"| `two` | {cells} |" in table
    assert "360 held-out digits, 0.28 points each" in table and "commit `abc`" in table


def test_the_trials_are_those_of_the_network_with_most_layers_in_float32():
    table = int8_trials_table(RESULT)
    assert "| MinMax | 0 | 97.50 | 20.0 |" in table and "`two`" in table


def test_the_costliest_kind_of_layer_comes_first():
    lines = int8_kinds_table(RESULT).splitlines()[2:]
    assert [line.split(" | ")[1] for line in lines] == ["primary", "cheap"] * 2


def test_a_scheme_that_is_slower_than_float32_is_bold():
    table = int8_schemes_table(RESULT)
    assert "| `one` | openvino, AVX2 alone | S8S8 per channel | 40.0 | **0.50** | 15.0 |" in table


@pytest.mark.parametrize(
    "table", [int8_networks_table, int8_trials_table, int8_kinds_table, int8_schemes_table]
)
def test_a_page_without_results_says_so(table):
    assert table(EMPTY) == "not measured\n"
