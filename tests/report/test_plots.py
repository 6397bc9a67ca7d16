"""Pictures for any number of classes, and a per-class table that counts what couldn't be read."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from mindcv_ghost.report import ReportError, plots
from mindcv_ghost.report.metrics import MetricsLog

PNG = b"\x89PNG\r\n\x1a\n"


def size_of(png):
    content = png.read_bytes()
    assert content.startswith(PNG)
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")


@pytest.fixture
def metrics(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 3)
    log.append(epoch=1, step=10, loss=2.0)
    log.append(epoch=2, step=20, loss=1.0, val_loss=1.5, top1=50.0, topk=90.0)
    return log.path


def test_learning_curve_shows_loss_and_both_accuracies(metrics, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    drawn = {}

    def look(figure, png, dpi=120):
        for axes in figure.axes:
            for line in axes.lines:
                drawn[line.get_label()] = [tuple(map(float, point)) for point in line.get_xydata()]

    monkeypatch.setattr(plots, "save_png", look)
    plots.plot_learning_curve(metrics, tmp_path / "curve.png")
    assert drawn == {
        "training": [(1.0, 2.0), (2.0, 1.0)],
        "validation": [(2.0, 1.5)],
        "top-1": [(2.0, 50.0)],
        "top-3": [(2.0, 90.0)],
    }


def test_learning_curve_comes_by_one_command(metrics, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    png = tmp_path / "curve.png"
    assert plots.main([str(metrics), str(png)]) == 0
    width, height = size_of(png)
    assert width > 800 and height > 300
    assert plots.main([str(tmp_path / "nothing.csv"), str(png)]) == 2
    assert capsys.readouterr().err.startswith("error: no metrics file")


def test_curve_of_a_run_that_was_never_validated_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    log.append(epoch=1, step=1, loss=float("nan"))
    plots.plot_learning_curve(log.path, tmp_path / "curve.png")
    size_of(tmp_path / "curve.png")


@pytest.mark.parametrize("first, scale", [(2139.0, "log"), (2.5, "linear")])
def test_one_huge_loss_does_not_flatten_the_curve(tmp_path, monkeypatch, first, scale):
    pytest.importorskip("matplotlib")
    scales = []
    monkeypatch.setattr(
        plots, "save_png", lambda figure, png, dpi=120: scales.append(figure.axes[0].get_yscale())
    )
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    for epoch, val_loss in enumerate([first, 0.6, 0.5], start=1):
        log.append(epoch=epoch, step=epoch, loss=1.0 / epoch, val_loss=val_loss)
    plots.plot_learning_curve(log.path, tmp_path / "curve.png")
    assert scales == [scale]


def test_no_epoch_is_no_curve(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    with pytest.raises(ReportError, match="no epoch yet"):
        plots.plot_learning_curve(log.path, tmp_path / "curve.png")


def test_missing_matplotlib_says_what_to_install(metrics, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ReportError, match="pip install matplotlib"):
        plots.plot_learning_curve(metrics, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


@pytest.mark.parametrize("classes", [2, 10, 40, 41, 1000])
def test_confusion_is_drawn_for_any_number_of_classes(tmp_path, classes):
    pytest.importorskip("matplotlib")
    matrix = np.eye(classes, dtype=int) * 9
    matrix[0, 1] = 3
    png = tmp_path / "confusion.png"
    plots.plot_confusion(matrix, [f"class {i}" for i in range(classes)], png)
    width, height = size_of(png)
    assert 400 < width < 2500 and 400 < height < 2500


def test_confusion_names_the_worst_pair_of_a_thousand_classes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    texts = []
    monkeypatch.setattr(
        plots,
        "save_png",
        lambda figure, png, dpi=120: texts.extend(
            text.get_text() for axes in figure.axes for text in axes.texts
        ),
    )
    matrix = np.eye(1000, dtype=int) * 40
    matrix[7, 9] = 10
    plots.plot_confusion(matrix, [f"n{i}" for i in range(1000)], tmp_path / "c.png")
    assert "10 of 50  n7 → n9" in texts[0]


def test_confusion_of_an_empty_class_and_without_names_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    plots.plot_confusion([[0, 0], [1, 3]], [], tmp_path / "c.png")
    size_of(tmp_path / "c.png")


def test_wrong_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match="square"):
        plots.plot_confusion([[1, 2]], ["a"], tmp_path / "c.png")
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        plots.plot_confusion([[1, 0], [0, 1]], ["a"], tmp_path / "c.png")
    with pytest.raises(ValueError, match="classes"):
        plots.write_per_class(tmp_path / "p.csv", ["a"], [[1, 0], [0, 1]])


def test_per_class_counts_unreadable_images_as_wrong(tmp_path):
    path = tmp_path / "out" / "per_class.csv"
    confusion = [[8, 1, 0], [0, 3, 0], [0, 0, 0]]
    plots.write_per_class(path, ["cat", "dog, big", "empty"], confusion, [1, 0, 0])
    assert path.read_text().splitlines() == [
        "class,images,correct,top1,unreadable",
        "cat,10,8,80.00,1",
        '"dog, big",3,3,100.00,0',
        "empty,0,0,,0",
    ]
