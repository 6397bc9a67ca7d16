"""A recorded result has accuracy, speed and provenance, and only a reproducible run is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mindcv_ghost.report import ReportError
from tools.pages import record_run


def change(path, **values):
    content = json.loads(path.read_text())
    content.update(values)
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def test_result_holds_accuracy_speed_and_provenance(run_folder, tmp_path):
    out = tmp_path / "results" / "digits.json"
    record_run.record_run(run_folder, out)
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
def test_run_with_uncommitted_changes_is_refused(run_folder, tmp_path, commit):
    change(run_folder / "run.json", commit=commit)
    with pytest.raises(ReportError, match="nobody could repeat it"):
        record_run.record_run(run_folder, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
    record_run.record_run(run_folder, tmp_path / "x.json", allow_dirty=True)
    assert (tmp_path / "x.json").exists()


def test_unfinished_run_is_refused(run_folder, tmp_path):
    change(run_folder / "run.json", epochs=...)
    with pytest.raises(ReportError, match="only a finished run"):
        record_run.record_run(run_folder, tmp_path / "x.json")


@pytest.mark.parametrize("name", ["run.json", "validate.json", "metrics.csv", "config.yaml"])
def test_missing_file_is_named(run_folder, tmp_path, name, capsys):
    (run_folder / name).unlink()
    assert record_run.main([str(run_folder), "--out", str(tmp_path / "x.json")]) == 2
    assert str(run_folder / name) in capsys.readouterr().err


def test_missing_fact_is_named(run_folder):
    change(run_folder / "run.json", hardware=..., seed=...)
    with pytest.raises(ReportError, match="lacks seed, hardware"):
        record_run.collect_result(run_folder)


def test_damaged_validation_is_named(run_folder):
    (run_folder / "validate.json").write_text("top1 98\n")
    with pytest.raises(ReportError, match="validate.json is not JSON"):
        record_run.collect_result(run_folder)
    (run_folder / "validate.json").write_text('{"top1": 98.0}')
    with pytest.raises(ReportError, match="lacks images, ms_per_step"):
        record_run.collect_result(run_folder)


def test_recorded_log_has_no_local_paths(run_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (run_folder / "train.log").write_text(f"run folder: {Path.cwd()}/runs/demo\n")
    record_run.record_run(run_folder, tmp_path / "x.json")
    assert (tmp_path / "x_log.txt").read_text() == "run folder: runs/demo\n"
