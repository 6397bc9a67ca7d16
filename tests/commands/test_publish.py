"""``mindcv-ghost publish``: what it refuses before anything slow happens."""

from __future__ import annotations

import dataclasses
import errno
import json
from pathlib import Path

import pytest

from mindcv_ghost.commands.publish import _checkpoint, main
from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.errors import CheckpointError, tells_user_errors
from mindcv_ghost.report.finished_run import read_finished_run
from mindcv_ghost.storage.staging import staged
from tests.helpers.finished_run import FACTS, write_finished_run

LICENCE = ["--license", "Apache-2.0"]


@pytest.fixture
def run(tmp_path):
    write_finished_run(tmp_path / "run")
    return tmp_path / "run"


def refusal(capsys, *words: object) -> str:
    assert tells_user_errors(main)([str(word) for word in words]) == 2
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
        ({"epochs": 0, "stopped_by": "SIGTERM"}, "stopped after epoch 0 of 2 (SIGTERM). Finish"),
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
    (run / "best.ckpt").unlink()  # that there are no weights isn't the reason
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
    (run / "ghost_resnet50-2_44.ckpt").write_bytes(b"x")
    (run / "best.1.ckpt").write_bytes(b"x")
    told = refusal(capsys, *words, "--checkpoint", "none.ckpt")
    assert (
        f"there is no checkpoint {run / 'none.ckpt'}: choose one with --checkpoint FILE (" in told
    )
    assert "(the run folder has best.ckpt, ghost_resnet50-2_44.ckpt)\n" in told
    assert "--name 'a/b': give letters, digits" in refusal(capsys, *words, "--name", "a/b")


def test_a_folder_that_another_publish_is_writing_to_is_refused(run, tmp_path, capsys):
    out = tmp_path / "out"
    with staged(out, new=True):
        assert "another publish is writing to" in refusal(capsys, run, out, *LICENCE)
    assert not out.exists()


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path, capsys):
    write_finished_run(tmp_path / "other")
    (run / "link.ckpt").symlink_to(tmp_path / "other" / "best.ckpt")
    for file in (tmp_path / "other" / "best.ckpt", run / "link.ckpt"):
        told = refusal(capsys, run, tmp_path / "out", *LICENCE, "--checkpoint", file)
        assert f"--checkpoint {file} isn't in the run folder {run}, whose recipe" in told


def test_a_file_of_the_run_is_taken_also_through_a_link_to_the_folder(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    asked = str(run / "best.ckpt")
    assert _checkpoint(read_finished_run(tmp_path / "link"), asked) == Path(asked)


@pytest.mark.parametrize("name", ["best.ckpt", "ghost_resnet50-2_44.ckpt"])
def test_a_name_is_that_of_a_file_in_the_run_folder(run, name, tmp_path, monkeypatch):
    (run / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(b"another")
    assert _checkpoint(read_finished_run(run), name) == run / name


@pytest.mark.parametrize(
    "name",
    [
        *("best.1.ckpt", "best.ckpt.given_up", "ghost_resnet50-2_44.1.ckpt", "other-2_44.ckpt"),
        *("run.json", "metrics.csv"),
    ],
)
def test_what_may_be_of_an_earlier_training_is_refused(run, tmp_path, capsys, name):
    (run / name).touch()
    for file in (name, run / name):
        told = refusal(capsys, run, tmp_path / "out", *LICENCE, "--checkpoint", file)
        assert (
            f"{run / name} may be of another training: only last.ckpt, best.ckpt and "
            "ghost_resnet50-EPOCH_STEPS.ckpt are this run's: choose one with --checkpoint FILE "
            "(the run folder has best.ckpt)"
        ) in told
    (run / "last.ckpt").symlink_to(run / name)
    with pytest.raises(CheckpointError, match="may be of another training"):
        _checkpoint(read_finished_run(run), "last")


def test_a_lost_best_checkpoint_is_not_replaced_by_the_last_one_unasked(run, tmp_path, capsys):
    (run / "best.ckpt").rename(run / "last.ckpt")
    told = refusal(capsys, run, tmp_path / "out", *LICENCE)
    assert "was validated, but its best.ckpt is gone: --checkpoint last publishes" in told
    assert _checkpoint(read_finished_run(run), "last") == run / "last.ckpt"


def test_a_run_without_validation_has_no_best_checkpoint(run):
    unvalidated = dataclasses.replace(read_finished_run(run), facts={}, rows=[])
    for asked in ("best", str(run / "best.ckpt")):
        with pytest.raises(CheckpointError, match="wasn't validated, so .*: --checkpoint last pub"):
            _checkpoint(unvalidated, asked)


@pytest.mark.parametrize("text", ["", "  ", "MIT\nApache-2.0", "MIT | BSD", "MIT\x1b[0m"])
def test_a_licence_or_data_name_that_breaks_the_card_is_refused(run, tmp_path, capsys, text):
    told = refusal(capsys, run, tmp_path / "out", "--license", text)
    assert f"--license {text!r}: give the licence, as Apache-2.0, in one printable line" in told
    if text:
        told = refusal(capsys, run, tmp_path / "out", *LICENCE, "--data_name", text)
        assert f"--data_name {text!r}: give a name" in told


def test_damaged_metrics_are_told_before_anything_is_validated(run, tmp_path, capsys):
    (run / "metrics.csv").write_text("a,b\n1,2\n")
    told = refusal(capsys, run, tmp_path / "out", *LICENCE)
    assert f"{run / 'metrics.csv'} is not a metrics file of a training run" in told


@pytest.mark.parametrize("name", ["metrics.csv", "run.json", "best.ckpt"])
def test_a_file_that_cannot_be_read_is_named(run, tmp_path, capsys, monkeypatch, name):
    original = Path.open

    def guarded(path, *args, **options):
        if path == run / name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path, *args, **options)

    monkeypatch.setattr(Path, "open", guarded)  # a superuser may read everything
    told = refusal(capsys, run, tmp_path / "out", *LICENCE)
    assert f"{run / name} can't be read (Permission denied)" in told


def test_a_run_folder_that_cannot_be_looked_into_is_named(run, tmp_path, capsys, monkeypatch):
    original = Path.is_file

    def guarded(path):
        if path.parent == run:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    told = refusal(capsys, run, tmp_path / "out", *LICENCE)
    assert str(run) in told and "can't be read (Permission denied)" in told


def test_ctrl_c_is_handled_as_in_validate():
    """MindSpore would make SIGTERM of it, while it validates."""
    assert COMMANDS["publish"].launched and COMMANDS["validate"].launched


@pytest.mark.parametrize(
    ("ema", "words", "use_ema"),
    [
        ("true", [], True),
        ("false", [], False),
        ("true", ["--use_ema", "false"], False),
        ("false", ["--use_ema", "true"], True),
        ("false", ["--use_ema"], True),
    ],
)
def test_the_weights_that_the_run_validated_are_published_unless_others_are_asked_for(
    run, tmp_path, monkeypatch, ema, words, use_ema
):
    with open(run / "config.yaml", "a") as file:
        file.write(f"ema: {ema}\n")
    configs = []

    class Stop(Exception):
        pass

    def open_session(config, *_, **__):
        configs.append(config)
        raise Stop

    monkeypatch.setattr("mindcv_ghost.run.session.open_session", open_session)
    with pytest.raises(Stop):
        main([str(run), str(tmp_path / "out"), *LICENCE, *words])
    assert configs[0].evaluate.use_ema is use_ema
    assert configs[0].model.ckpt_path == str(run / "best.ckpt")


def test_a_licence_is_required(run, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(run), str(tmp_path / "out")])
    assert ended.value.code == 2 and "--license" in capsys.readouterr().err
