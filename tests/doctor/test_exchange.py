"""Ranks exchange results through files, and don't wait forever."""

from __future__ import annotations

import pytest

from mindcv_ghost.doctor.exchange import FileExchange, MissingRanks
from mindcv_ghost.doctor.report import BROKEN, OK, CheckResult
from mindcv_ghost.launch.world import World


def test_ranks_read_each_others_results(tmp_path):
    exchanges = [
        FileExchange(tmp_path / "b", World(rank, 2, rank, 2, "openmpi")) for rank in (0, 1)
    ]
    exchanges[0].prepare()
    exchanges[1]._write("check0-rank1", vars(CheckResult("x", BROKEN, "mine", numbers={"a": 1})))
    results = exchanges[0].gather(0, CheckResult("x", OK, "fine"))
    assert [each.text for each in results.values()] == ["fine", "mine"]
    assert results[1].numbers == {"a": 1}
    exchanges[1].remove()
    assert (tmp_path / "b").exists()
    exchanges[0].remove()
    assert not (tmp_path / "b").exists()


def test_ranks_dont_wait_forever_for_one_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr("mindcv_ghost.doctor.exchange.GRACE_SECONDS", 0.1)
    exchange = FileExchange(tmp_path / "b", World(0, 3, 0, 3, "openmpi"))
    exchange.prepare()
    exchange._write("check0-rank2", vars(CheckResult("x", OK, "fine")))
    with pytest.raises(MissingRanks) as error:
        exchange.gather(0, CheckResult("x", BROKEN, "no"))
    assert error.value.missing == [1] and sorted(error.value.results) == [0, 2]


def test_files_of_a_killed_job_are_removed_before_the_next_one(tmp_path):
    exchange = FileExchange(tmp_path / "b", World(0, 2, 0, 2, "openmpi"))
    exchange.prepare()
    exchange._write("check0-rank1", vars(CheckResult("x", OK, "old")))
    exchange.prepare()
    assert list((tmp_path / "b").iterdir()) == []
