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


def test_a_folder_without_a_run_is_an_error(tmp_path, capsys):
    assert show.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: there is no {tmp_path}/run.json: ")
