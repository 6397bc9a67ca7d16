"""metrics.csv keeps every finished epoch; another file's header is refused."""

from __future__ import annotations

import os

import pytest

from mindcv_ghost.report import ReportError
from mindcv_ghost.report.metrics import MetricsLog, last_run, read_metrics

HEADER = "epoch,step,loss,lr,val_loss,top1,top5,images_per_second,epoch_seconds,compile_seconds"


def test_header_is_written_once_however_often_the_file_is_opened(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    for epoch in (1, 2):
        MetricsLog(path, 10).append(epoch=epoch, step=44 * epoch, loss=0.5, lr=0.1)
    assert path.read_text().splitlines() == [
        HEADER,
        "1,44,0.5,0.1,,,,,,",
        "2,88,0.5,0.1,,,,,,",
    ]


def test_rows_read_back_as_numbers_and_empty_cells_as_none(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 1000)
    log.append(
        epoch=1,
        step=5004,
        loss=6.25,
        lr=0.1,
        val_loss=5.5,
        top1=12.5,
        topk=30.25,
        images_per_second=512.375,
        epoch_seconds=2500.5,
        compile_seconds=80.0,
    )
    log.append(epoch=2, step=10008, loss=5.75, lr=0.1)
    rows = read_metrics(log.path)
    assert rows[0]["top5"] == 30.25
    assert rows[0]["step"] == 5004 and isinstance(rows[0]["step"], int)
    assert rows[1]["val_loss"] is None and rows[1]["top1"] is None and rows[1]["loss"] == 5.75


@pytest.mark.parametrize("classes, name", [(3, "top3"), (5, "top5"), (10, "top5")])
def test_second_accuracy_is_named_by_the_number_of_classes(tmp_path, classes, name):
    log = MetricsLog(tmp_path / "metrics.csv", classes)
    log.append(epoch=1, step=1, topk=99.0)
    assert read_metrics(log.path)[0][name] == 99.0


def test_a_single_class_has_no_second_accuracy(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 1)
    log.append(epoch=1, step=1, topk=100.0)
    assert read_metrics(log.path)[0]["top1"] == 100.0


def test_another_header_is_refused_and_the_message_has_both(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,accuracy\n1,0.5\n")
    with pytest.raises(ReportError) as caught:
        MetricsLog(path, 10)
    assert "epoch,accuracy" in str(caught.value) and HEADER in str(caught.value)
    assert "--ckpt_save_dir" in str(caught.value)
    assert path.read_text() == "epoch,accuracy\n1,0.5\n"


def test_another_number_of_classes_is_another_header(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsLog(path, 3)
    with pytest.raises(ReportError, match="top3"):
        MetricsLog(path, 10)


def test_binary_file_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xff\xfe\x00\x80\n")
    with pytest.raises(ReportError, match="not a text file"):
        MetricsLog(path, 10)


def test_an_incomplete_row_is_dropped_and_the_next_one_is_whole(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsLog(path, 10).append(epoch=1, step=44, loss=0.5)
    with open(path, "a") as file:
        file.write("2,88,0.2")
    assert [row["epoch"] for row in read_metrics(path)] == [1]
    MetricsLog(path, 10).append(epoch=2, step=88, loss=0.25)
    assert [row["loss"] for row in read_metrics(path)] == [0.5, 0.25]


def test_an_incomplete_header_is_written_again(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(HEADER[:20])
    MetricsLog(path, 10)
    assert path.read_text() == HEADER + "\n"


def test_every_row_is_synced_to_the_disk(tmp_path, monkeypatch):
    synced = []
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    monkeypatch.setattr(os, "fsync", synced.append)
    log.append(epoch=1, step=1)
    log.append(epoch=2, step=2)
    assert len(synced) == 4  # the file and its folder, twice


def test_a_run_that_goes_on_with_a_teacher_gets_the_columns_of_its_losses(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsLog(path, 10).append(epoch=1, step=44, loss=0.5, lr=0.1)
    log = MetricsLog(path, 10, teacher=True)
    log.append(epoch=2, step=88, loss=0.4, hard_loss=0.3, soft_loss=0.5, lr=0.05)
    assert [row["soft_loss"] for row in read_metrics(path)] == [None, 0.5]
    assert [row["lr"] for row in read_metrics(path)] == [0.1, 0.05]
    MetricsLog(path, 10).append(epoch=3, step=132, loss=0.3, lr=0.02)
    assert [row["soft_loss"] for row in read_metrics(path)] == [None, 0.5, None]
    restored = MetricsLog(tmp_path / "other.csv", 10)
    restored.restore(log.text)
    restored.append(epoch=3, step=132, loss=0.3)
    assert [row["hard_loss"] for row in read_metrics(restored.path)] == [None, 0.3, None]


def test_an_unknown_column_is_a_type_error(tmp_path):
    with pytest.raises(TypeError, match="los"):
        MetricsLog(tmp_path / "metrics.csv", 10).append(epoch=1, los=0.5)


def test_missing_foreign_and_damaged_files_are_explained(tmp_path):
    with pytest.raises(ReportError, match="no metrics file"):
        read_metrics(tmp_path / (300 * "x"))
    with pytest.raises(ReportError, match="no metrics file"):
        read_metrics(tmp_path / "metrics.csv")
    path = tmp_path / "foreign.csv"
    path.write_text("name,age\nx,3\n")
    with pytest.raises(ReportError, match="starts with name,age"):
        read_metrics(path)
    path.write_text(HEADER + "\n1,44,abc,,,,,,,\n")
    with pytest.raises(ReportError, match=r"foreign\.csv:2: .*abc"):
        read_metrics(path)
    path.write_text(HEADER + "\n1,44\n")
    with pytest.raises(ReportError, match=r"foreign\.csv:2: 2 cells, expected 10"):
        read_metrics(path)


def test_nan_loss_survives_the_file(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    log.append(epoch=1, step=1, loss=float("nan"))
    loss = read_metrics(log.path)[0]["loss"]
    assert loss != loss


def test_last_run_returns_the_last_of_two_runs_in_one_file():
    rows = [{"epoch": e} for e in (1, 2, 3, 1, 2)]
    assert last_run(rows) == [{"epoch": 1}, {"epoch": 2}]
    assert last_run([]) == []
