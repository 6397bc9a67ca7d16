"""The summary of a run folder."""

from __future__ import annotations

from mindcv_ghost.report import show


def test_summary_has_the_result_and_the_files_that_exist(run_folder, capsys):
    assert show.main([str(run_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "ghost_resnet50: 11,925,002 parameters, 2 epochs in 0:05:12 on 2 x CPU",
        "top-1 98.06 %, top-5 100.00 % of 360 validation images",
    ]
    places = dict(line.strip().split("  ", 1) for line in lines[2:])
    assert places["best checkpoint"].strip() == str(run_folder / "best.ckpt")
    assert "learning curve" not in places


def test_files_of_something_else_are_named(run_folder, capsys):
    (run_folder / "validate.json").write_text('{"files": []}')
    assert show.main([str(run_folder)]) == 2
    assert f"{run_folder}/validate.json isn't a validation's: " in capsys.readouterr().err
    (run_folder / "validate.json").write_text("[" * 200_000)
    assert show.main([str(run_folder)]) == 2
    assert f"{run_folder}/validate.json is not JSON: " in capsys.readouterr().err
    (run_folder / "run.json").write_text("{}")
    assert show.main([str(run_folder)]) == 2
    assert f"{run_folder}/run.json isn't a training's: " in capsys.readouterr().err


def test_a_folder_without_a_run_is_an_error(tmp_path, capsys):
    assert show.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no {tmp_path}/run.json: ")
