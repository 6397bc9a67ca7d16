"""What is found is told once, in one way, and names nobody."""

from __future__ import annotations

import json

from mindcv_ghost.doctor.findings import (
    BROKEN,
    OK,
    SKIPPED,
    SLOW,
    Finding,
    Report,
    merged,
    without_names,
)


def test_one_line_says_state_subject_and_text_and_the_next_what_to_do():
    assert Finding("shm", SLOW, "small", "enlarge it").lines() == [
        "slow     shm: small",
        "         -> enlarge it",
    ]


def test_the_worst_rank_counts_and_is_named():
    ranks = {
        0: Finding("x", OK, "fine"),
        1: Finding("x", BROKEN, "no"),
        2: Finding("x", OK, "fine"),
    }
    found = merged(ranks)
    assert (found.state, found.text) == (BROKEN, "fine; rank 1: no")


def test_ranks_that_say_the_same_are_named_together_and_all_of_them_not_at_all():
    some = {0: Finding("x", OK, ""), **{rank: Finding("x", BROKEN, "no") for rank in range(1, 7)}}
    assert merged(some).text == "ranks 1, 2, 3, 4 and 2 more: no"
    assert merged({rank: Finding("x", BROKEN, "no") for rank in range(3)}).text == "no"


def test_a_check_that_rank_0_alone_makes_names_no_rank():
    assert merged({0: Finding("x", SKIPPED, "none"), 1: Finding("x", OK)}).text == "none"


def test_every_ranks_part_is_told_in_order():
    ranks = {r: Finding("x", OK, "rank:number", part=f"{r}:{7 - r}") for r in range(3)}
    assert merged(ranks).text == "rank:number 0:7, 1:6, 2:5"


def test_the_status_is_1_only_if_something_is_broken():
    assert Report(findings=[Finding("x", SLOW, ""), Finding("y", SKIPPED, "")]).status == 0
    assert Report(findings=[Finding("x", OK, ""), Finding("y", BROKEN, "")]).status == 1


def test_training_that_was_not_tried_is_not_said_to_work():
    tried = Report(findings=[Finding("training", OK, "")])
    assert "Nothing is broken, and training works." in tried.verdict()
    left_out = Report(findings=[Finding("compiler", OK, "")])
    assert "Nothing is broken in what was tried; training wasn't." in left_out.verdict()


def test_home_host_and_user_are_in_no_block_and_no_object(monkeypatch):
    monkeypatch.setattr("mindcv_ghost.doctor.findings.Path.home", lambda: "/home/ann")
    monkeypatch.setattr("socket.gethostname", lambda: "box7.lab.example")
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    report = Report({"command": "--data_dir /home/ann/images"})
    report.findings = [Finding("x", BROKEN, "box7: /scratch/ann/y on box7.lab.example", "")]
    for text in (report.paste(), report.as_json()):
        assert "ann" not in text.replace("announce", "") and "box7" not in text
        assert "~/images" in text and "HOST: /scratch/USER/y on HOST" in text


def test_parts_of_words_are_no_names():
    assert without_names("annual /home/anna", "/home/ann", "box", "ann") == "annual /home/anna"


def test_the_object_has_every_check_with_its_numbers():
    report = Report({"device": "CPU"}, [Finding("x", SLOW, "t", "r", {"mb": 3.5})])
    whole = json.loads(report.as_json())
    assert whole["status"] == 0 and whole["facts"] == {"device": "CPU"}
    assert whole["checks"] == [
        {"what": "x", "state": "slow", "text": "t", "remedy": "r", "numbers": {"mb": 3.5}}
        | {"seconds": 0.0}
    ]
