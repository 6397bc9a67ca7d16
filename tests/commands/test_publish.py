"""``mindcv-ghost publish``: what it refuses before anything slow happens."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.commands.publish import main
from tests.helpers.finished_run import FACTS, write_finished_run

LICENCE = ["--license", "Apache-2.0"]


@pytest.fixture
def run(tmp_path):
    write_finished_run(tmp_path / "run")
    return tmp_path / "run"


def refusal(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ")
    return err


@pytest.mark.parametrize("name", ["run.json", "config.yaml", "metrics.csv"])
def test_a_folder_that_is_no_runs_lacks_a_file(run, tmp_path, capsys, name):
    (run / name).unlink()
    assert f"{run} lacks {name}: give the run folder" in refusal(
        capsys, run, tmp_path / "out", *LICENCE
    )
    assert "none: there is no such run folder" in refusal(
        capsys, tmp_path / "none", tmp_path / "out", *LICENCE
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": None}, "hasn't ended: run.json has no result yet. Wait for it, or finish"),
        ({"epochs": 1, "stopped_by": "SIGTERM"}, "stopped after epoch 1 of 2 (SIGTERM). Finish"),
        (
            {"epochs": 1},
            "was stopped after epoch 1 of 2 (unfinished). Finish it with --resume auto",
        ),
    ],
)
def test_a_run_that_has_not_finished_is_refused(run, tmp_path, capsys, change, message):
    facts = {name: value for name, value in {**FACTS, **change}.items() if value is not None}
    (run / "run.json").write_text(json.dumps(facts))
    assert message in refusal(capsys, run, tmp_path / "out", *LICENCE)


def test_a_folder_with_files_is_left_alone(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("mine")
    assert "out isn't empty: give a new folder" in refusal(capsys, run, tmp_path / "out", *LICENCE)
    assert "isn't a folder" in refusal(capsys, run, tmp_path / "out" / "a", *LICENCE)
    assert (tmp_path / "out" / "a").read_text() == "mine"


def test_checkpoint_and_name_are_checked(run, tmp_path, capsys):
    words = [run, tmp_path / "out", *LICENCE]
    assert "last.ckpt: choose one with --checkpoint FILE" in refusal(
        capsys, *words, "--checkpoint", "last"
    )
    assert "there is no checkpoint none.ckpt" in refusal(
        capsys, *words, "--checkpoint", "none.ckpt"
    )
    assert "--name 'a/b': give letters, digits" in refusal(capsys, *words, "--name", "a/b")


def test_a_licence_is_required(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(run), str(tmp_path / "out")])
    assert ended.value.code == 2 and "--license" in capsys.readouterr().err
