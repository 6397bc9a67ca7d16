"""Throughput is measured model by model, goes on where it was stopped, and fills its columns."""

from __future__ import annotations

import json

import mindspore as ms
import pytest

from tools.measure import time_models
from tools.pages.zoo_tables import models_rows, throughput_sentence


@pytest.fixture
def measure(tmp_path, monkeypatch):
    """Run the tool with made-up times; returns the models that it measured."""
    monkeypatch.setattr(time_models, "zoo", lambda: ["a", "b", "c"])
    monkeypatch.setattr(time_models.compat, "set_up", lambda *arguments: None)
    monkeypatch.setattr(time_models, "source_commit", lambda: "abc")

    def run(*words, failing=None):
        asked = []

        def images_per_second(name):
            if name == failing:
                raise KeyboardInterrupt
            asked.append(name)
            return {"1": 7.5, "32": 1234.5}

        monkeypatch.setattr(time_models, "images_per_second", images_per_second)
        try:
            assert time_models.main([*words, "--out", str(tmp_path / "out.json")]) == 0
        except KeyboardInterrupt:
            assert failing
        return asked

    return run


def test_a_stopped_measurement_goes_on_after_its_last_model(measure, tmp_path):
    assert measure(failing="b") == ["a"]
    assert measure() == ["b", "c"]
    assert measure() == []
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"] for row in result["models"]] == ["a", "b", "c"]
    assert result["batch_sizes"] == [1, 32]


def test_another_commit_is_measured_from_the_start(measure, monkeypatch):
    assert measure("a") == ["a"]
    monkeypatch.setattr(time_models, "source_commit", lambda: "def")
    assert measure() == ["a", "b", "c"]


def test_a_real_network_is_measured(monkeypatch):
    monkeypatch.setattr(time_models, "SECONDS", 0.01)
    monkeypatch.setattr(time_models, "BATCH_SIZES", (2,))
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE)
    rates = time_models.images_per_second("ghost_resnet20_cifar")
    ms.set_context(mode=before)
    assert list(rates) == ["2"] and rates["2"] > 0


def test_the_rates_stand_in_the_models_table(measure, tmp_path):
    measure("a")
    throughput = json.loads((tmp_path / "out.json").read_text())
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
