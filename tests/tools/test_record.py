"""A recorded result says what ran where, and only what can be repeated is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindcv_ghost.report import ReportError, show
from tools.pages import record


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_result_holds_accuracy_speed_and_provenance(run_folder, tmp_path):
    out = tmp_path / "results" / "digits.json"
    record.record_run(run_folder, out)
    result = json.loads(out.read_text())
    expected = {
        "kind": "run",
        "top1": 98.0556,
        "topk": 100.0,
        "k": 5,
        "images": 360,
        "parameters": 11_925_002,
        "train_seconds_per_epoch": 32.0,
        "infer_ms_per_step": 123.456,
        "infer_batch_size": 16,
        "epochs": 2,
        "dataset": "digits",
        "image_size": 64,
        "commit": "0123456789ab",
        "seed": 42,
        "hardware": "Some CPU, 2 cores",
        "log": "digits_log.txt",
        "metrics": "digits_metrics.csv",
    }
    assert {key: result[key] for key in expected} == expected
    assert result["versions"]["mindspore"] == "2.8.0"
    assert (out.parent / "digits_log.txt").read_text() == "2026-11-23 10:00:00 epoch 1/2\n"
    assert (out.parent / "digits_metrics.csv").read_bytes() == (
        run_folder / "metrics.csv"
    ).read_bytes()


@pytest.mark.parametrize("commit", [None, "0123456789ab-dirty"])
def test_run_that_no_commit_holds_is_refused(run_folder, tmp_path, commit):
    change(run_folder / "run.json", commit=commit)
    with pytest.raises(ReportError, match="nobody could repeat it"):
        record.record_run(run_folder, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
    record.record_run(run_folder, tmp_path / "x.json", allow_dirty=True)
    assert (tmp_path / "x.json").exists()


def test_unfinished_run_is_refused(run_folder, tmp_path):
    change(run_folder / "run.json", epochs=...)
    with pytest.raises(ReportError, match="only a finished run"):
        record.record_run(run_folder, tmp_path / "x.json")


@pytest.mark.parametrize("name", ["run.json", "validate.json", "metrics.csv", "config.yaml"])
def test_missing_file_is_named(run_folder, tmp_path, name, capsys):
    (run_folder / name).unlink()
    assert record.main([str(run_folder), "--out", str(tmp_path / "x.json")]) == 2
    assert str(run_folder / name) in capsys.readouterr().err


def test_missing_fact_is_named(run_folder):
    change(run_folder / "run.json", hardware=..., seed=...)
    with pytest.raises(ReportError, match="lacks seed, hardware"):
        record.compose(run_folder)


def test_broken_validation_is_named(run_folder):
    (run_folder / "validate.json").write_text("top1 98\n")
    with pytest.raises(ReportError, match="validate.json is not JSON"):
        record.compose(run_folder)
    (run_folder / "validate.json").write_text('{"top1": 98.0}')
    with pytest.raises(ReportError, match="lacks images, ms_per_step"):
        record.compose(run_folder)


def test_recorded_log_does_not_tell_whose_disk_it_was(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run_folder / "train.log").write_text(f"run folder: {Path.cwd()}/runs/demo\n")
    record.record_run(run_folder, tmp_path / "x.json")
    assert (tmp_path / "x_log.txt").read_text() == "run folder: runs/demo\n"


def test_end_of_the_demo_tells_result_and_places(run_folder, capsys):
    assert show.main([str(run_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "ghost_resnet50: 11,925,002 parameters, 2 epochs in 0:05:12 on 2 x CPU",
        "top-1 98.06 %, top-5 100.00 % of 360 validation images",
    ]
    places = dict(line.strip().split("  ", 1) for line in lines[2:])
    assert places["best checkpoint"].strip() == str(run_folder / "best.ckpt")
    assert "learning curve" not in places


def test_folder_without_a_run_is_said_to_be_so(tmp_path, capsys):
    assert show.main([str(tmp_path)]) == 2
    assert "run.json" in capsys.readouterr().err
