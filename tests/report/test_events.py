"""TensorBoard events are written where tensorboardX is installed; elsewhere nothing happens."""

from __future__ import annotations

import sys

import pytest

from mindcv_ghost.report.events import EventsLog


def test_scalars_reach_an_event_file(tmp_path):
    pytest.importorskip("tensorboardX")
    with EventsLog(tmp_path / "events") as events:
        events.scalars(44, {"train/loss": 0.5, "val/top1": None})
    (file,) = (tmp_path / "events").iterdir()
    content = file.read_bytes()
    assert b"train/loss" in content and b"val/top1" not in content


def test_nothing_happens_without_tensorboardx(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with EventsLog(tmp_path / "events") as events:
        events.scalars(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_other_ranks_write_nothing(tmp_path):
    with EventsLog(tmp_path / "events", enabled=False) as events:
        events.scalars(1, {"loss": 0.5})
    assert list(tmp_path.iterdir()) == []
