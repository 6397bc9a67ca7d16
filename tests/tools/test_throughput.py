"""Throughput is measured in turns, refused on a busy machine, and fills its columns."""

from __future__ import annotations

import itertools
import json

import pytest

from tools.measure import time_models
from tools.measure.turns import seconds_in_turns
from tools.pages.zoo_tables import models_rows, throughput_sentence


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Run the tool on two names with made-up seconds; returns what it recorded."""
    monkeypatch.setattr(time_models, "zoo", lambda: ["a", "b"])
    monkeypatch.setattr(time_models, "TWINS", ("a", "b"))
    monkeypatch.setattr(time_models.compat, "set_up", lambda *arguments: None)
    monkeypatch.setattr("tools.measure.commits.source_commit", lambda: "abc")

    def run(*words, slower=1.0):
        turns = []

        def network_calls(names):
            return {(name, size): lambda: None for name in names for size in (1, 32)}

        def median_seconds(call, seconds):
            turns.append(call)
            return (0.1, 0.1, 0.1 * slower, 0.1)[(len(turns) - 1) % 4]

        monkeypatch.setattr(time_models, "network_calls", network_calls)
        monkeypatch.setattr("tools.measure.turns._median_seconds", median_seconds)
        out = tmp_path / "out.json"
        status = time_models.main([*words, "--out", str(out)])
        return status, json.loads(out.read_text()) if out.exists() else None

    return run


def test_calls_are_timed_in_turns(monkeypatch):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    found = seconds_in_turns(calls, 2, 0.0001)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b"] * 3  # the first of them isn't timed
    assert [len(seconds) for seconds in found.values()] == [2, 2]


def test_the_median_of_five_rounds_is_recorded(measure):
    status, result = measure()
    assert (status, result["rounds"]) == (0, 5)
    rates = [row["images_per_second"] for row in result["models"]]
    assert rates == [{"1": 10.0, "32": 320.0}, {"1": 10.0, "32": 320.0}]
    assert result["models"][0]["spread"] == {"1": 0.0, "32": 0.0}


def test_a_busy_machine_s_rates_are_refused(measure, capsys):
    assert measure(slower=1.2) == (2, None)
    assert "are one network, but have 8.333 and 10 images/s" in capsys.readouterr().err


@pytest.mark.parametrize("commit", ["abc-dirty", None])
def test_code_that_is_not_committed_is_not_measured(measure, commit, monkeypatch, capsys):
    monkeypatch.setattr("tools.measure.commits.source_commit", lambda: commit)
    assert measure() == (2, None)
    assert "commit first" in capsys.readouterr().err


def test_a_part_of_the_zoo_does_not_replace_the_record_of_all(
    measure, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(time_models, "OUT", tmp_path / "out.json")
    assert measure("a") == (2, None)
    assert "give another file with --out" in capsys.readouterr().err
    assert measure("c") == (2, None)
    assert "no such model in the zoo: c" in capsys.readouterr().err


def test_a_real_network_is_measured(monkeypatch, graph_mode):
    monkeypatch.setattr(time_models, "SECONDS", 0.01)
    monkeypatch.setattr(time_models, "BATCH_SIZES", (2,))
    (row,) = time_models.measured_rows(["ghost_resnet20_cifar"])
    assert list(row["images_per_second"]) == ["2"] and row["images_per_second"]["2"] > 0


def test_the_rates_stand_in_the_models_table(tmp_path):
    throughput = {
        **{"hardware": "a CPU", "commit": "abc", "rounds": 5, "versions": {"mindspore": "2.8.0"}},
        **{"models": [{"model": "a", "images_per_second": {"1": 7.5, "32": 1234.5}}]},
    }
    entry = {
        **{
            "model": "a",
            "family": "A",
            "paper": {"authors": "B", "arxiv": "1"},
            "input": [3, 8, 8],
        },
        **{"parameters": 1e6, "macs": 1e6, "activations": 1e6, "peak_bytes": 1e6},
    }
    other = {**entry, "model": "b"}
    recipes = [
        type("Recipe", (), {"path": tmp_path / name, "model": name[0], "is_comparison": compared})
        for name, compared in (("a_x.yaml", False), ("a_y.yaml", True), ("b_x.yaml", False))
    ]
    first, second = models_rows([entry, other], recipes, tmp_path / "page.md", throughput)
    assert first[7:9] == ("7.5", "1,234") and second[7:9] == ("–", "–")
    assert "commit `abc`" in throughput_sentence(throughput)
