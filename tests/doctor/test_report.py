"""Results are merged over ranks, shown once, and name neither people nor machines."""

from __future__ import annotations

import json

from mindcv_ghost.doctor.report import (
    BROKEN,
    OK,
    SKIPPED,
    SLOW,
    CheckResult,
    Report,
    anonymized,
    merge_ranks,
)


def test_a_result_is_a_line_with_its_state_and_a_line_with_the_remedy():
    assert CheckResult("shm", SLOW, "small", "enlarge it").lines() == [
        "slow     shm: small",
        "         -> enlarge it",
    ]


def test_the_worst_rank_decides_the_state_and_is_named():
    ranks = {
        0: CheckResult("x", OK, "fine"),
        1: CheckResult("x", BROKEN, "no"),
        2: CheckResult("x", OK, "fine"),
    }
    found = merge_ranks(ranks)
    assert (found.state, found.text) == (BROKEN, "fine; rank 1: no")


def test_ranks_with_equal_texts_are_grouped_and_not_named_if_all_agree():
    some = {
        0: CheckResult("x", OK, ""),
        **{rank: CheckResult("x", BROKEN, "no") for rank in range(1, 7)},
    }
    assert merge_ranks(some).text == "ranks 1, 2, 3, 4 and 2 more: no"
    assert merge_ranks({rank: CheckResult("x", BROKEN, "no") for rank in range(3)}).text == "no"


def test_a_check_that_only_rank_0_runs_names_no_rank():
    assert (
        merge_ranks({0: CheckResult("x", SKIPPED, "none"), 1: CheckResult("x", OK)}).text == "none"
    )


def test_texts_of_each_rank_are_appended_in_order():
    ranks = {r: CheckResult("x", OK, "rank:number", per_rank=f"{r}:{7 - r}") for r in range(3)}
    assert merge_ranks(ranks).text == "rank:number 0:7, 1:6, 2:5"


def test_the_status_is_1_only_if_something_is_broken():
    assert Report(results=[CheckResult("x", SLOW, ""), CheckResult("y", SKIPPED, "")]).status == 0
    assert Report(results=[CheckResult("x", OK, ""), CheckResult("y", BROKEN, "")]).status == 1


def test_the_summary_says_whether_training_was_checked():
    with_training = Report(results=[CheckResult("training", OK, "")])
    assert "Nothing is broken, and training works." in with_training.summary()
    without_training = Report(results=[CheckResult("compiler", OK, "")])
    assert (
        "Nothing that was checked is broken. Training wasn't checked." in without_training.summary()
    )


def test_block_and_json_contain_neither_home_nor_host_nor_user(monkeypatch):
    monkeypatch.setattr("mindcv_ghost.doctor.report.Path.home", lambda: "/home/ann")
    monkeypatch.setattr("socket.gethostname", lambda: "box7.lab.example")
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    report = Report({"command": "--data_dir /home/ann/images"})
    report.results = [CheckResult("x", BROKEN, "box7: /scratch/ann/y on box7.lab.example", "")]
    for text in (report.block(), report.as_json()):
        assert "ann" not in text.replace("announce", "") and "box7" not in text
        assert "~/images" in text and "HOST: /scratch/USER/y on HOST" in text


def test_names_within_words_are_kept():
    assert anonymized("annual /home/anna", "/home/ann", "box", "ann") == "annual /home/anna"


def test_the_json_object_has_every_check_with_its_numbers():
    report = Report({"device": "CPU"}, [CheckResult("x", SLOW, "t", "r", {"mb": 3.5})])
    whole = json.loads(report.as_json())
    assert whole["status"] == 0 and whole["facts"] == {"device": "CPU"}
    assert whole["checks"] == [
        {"what": "x", "state": "slow", "text": "t", "remedy": "r", "numbers": {"mb": 3.5}}
        | {"seconds": 0.0}
    ]
