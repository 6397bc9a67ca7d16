"""What the pictures show, for any number of classes; and the table of classes."""

from __future__ import annotations

import logging
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.report import ReportError, plots
from mindcv_ghost.report.metrics import MetricsLog


def pixels_of(png):
    """RGB, shape (height, width, 3)."""
    return np.asarray(Image.open(png).convert("RGB")).astype(int)


def rgb_of(colour):
    """Red, green and blue of #RRGGBB."""
    return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]


def count_of(pixels, colour):
    """How many pixels have about this colour."""
    return int((np.abs(pixels - rgb_of(colour)).max(axis=-1) <= 8).sum())


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved; they are still written."""
    pytest.importorskip("matplotlib")
    saved, write = [], plots.save_png

    def save(figure, png, *arguments):
        saved.append(figure)
        write(figure, png, *arguments)

    monkeypatch.setattr(plots, "save_png", save)
    return saved


@pytest.fixture
def metrics(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 3)
    log.append(epoch=1, step=10, loss=2.0)
    log.append(epoch=2, step=20, loss=1.0, val_loss=1.5, top1=50.0, topk=90.0)
    return log.path


def test_learning_curve_shows_loss_and_both_accuracies(metrics, tmp_path, figures):
    plots.plot_learning_curve(metrics, tmp_path / "curve.png")
    drawn = {
        line.get_label(): [tuple(map(float, point)) for point in line.get_xydata()]
        for axes in figures[0].axes
        for line in axes.lines
    }
    assert drawn == {
        "training": [(1.0, 2.0), (2.0, 1.0)],
        "validation": [(2.0, 1.5)],
        "top-1": [(2.0, 50.0)],
        "top-3": [(2.0, 90.0)],
    }
    titles = [axes.get_title() for axes in figures[0].axes]
    assert titles == ["", "best top-1: 50.00 % (epoch 2)"]


def test_the_command_draws_the_curve_into_the_file(metrics, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    png = tmp_path / "curve.png"
    assert plots.main([str(metrics), str(png)]) == 0
    pixels = pixels_of(png)
    left, right = np.array_split(pixels, 2, axis=1)
    # Left: the training loss as a line in blue, the only validation loss as a marker in orange.
    assert count_of(left, plots.BLUE) > 3 * count_of(left, plots.ORANGE) > 30
    # Right: a marker for either accuracy of the only validated epoch, and one in the legend.
    assert count_of(right, plots.BLUE) > 10 and count_of(right, plots.ORANGE) > 10
    # The training loss falls from epoch 1, at the top left, to epoch 2, at the bottom right.
    rows, columns = np.nonzero(np.abs(left - rgb_of(plots.BLUE)).max(axis=-1) <= 8)
    assert rows[columns.argmin()] < left.shape[0] / 4 < left.shape[0] * 3 / 4 < rows.max()
    assert columns[rows.argmax()] - columns.min() > left.shape[1] / 2
    assert plots.main([str(metrics), "/dev/null/curve.png"]) == 2
    assert capsys.readouterr().err.startswith("error: /dev/null/curve.png can't be written: ")
    assert plots.main([str(tmp_path / "nothing.csv"), str(png)]) == 2
    assert capsys.readouterr().err.startswith("error: no metrics file")


def test_a_run_without_validation_has_empty_accuracy_axes(tmp_path, figures):
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    log.append(epoch=1, step=1, loss=float("nan"))
    plots.plot_learning_curve(log.path, tmp_path / "curve.png")
    losses, accuracies = figures[0].axes
    assert [line.get_label() for line in losses.lines] == ["training"]
    assert not accuracies.lines and [t.get_text() for t in accuracies.texts] == ["not measured"]


@pytest.mark.parametrize("first, scale", [(2139.0, "log"), (2.5, "linear")])
def test_losses_far_apart_get_a_logarithmic_axis(tmp_path, figures, first, scale):
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    for epoch, val_loss in enumerate([first, 0.6, 0.5], start=1):
        log.append(epoch=epoch, step=epoch, loss=1.0 / epoch, val_loss=val_loss)
    plots.plot_learning_curve(log.path, tmp_path / "curve.png")
    assert figures[0].axes[0].get_yscale() == scale


def test_metrics_without_an_epoch_are_an_error(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv", 10)
    with pytest.raises(ReportError, match="no epoch yet"):
        plots.plot_learning_curve(log.path, tmp_path / "curve.png")


def test_without_matplotlib_the_message_says_what_to_install(metrics, tmp_path, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ReportError, match="pip install matplotlib"):
        plots.plot_learning_curve(metrics, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_matplotlib_does_not_announce_its_list_of_fonts(caplog):
    plots.new_figure(1, 1)
    font_manager = logging.getLogger("matplotlib.font_manager")
    font_manager.warning("Matplotlib is building the font cache; this may take a moment.")
    assert caplog.messages == []
    font_manager.error("no font")
    assert caplog.messages == ["no font"]


@pytest.mark.parametrize("classes", [2, 10, 40, 41, 1000])
def test_confusion_is_drawn_for_any_number_of_classes(tmp_path, figures, classes):
    matrix = np.eye(classes, dtype=int) * 9
    matrix[0, 1] = 3
    names = [f"class {i}" for i in range(classes)]
    plots.plot_confusion(matrix, names, tmp_path / "confusion.png")
    axes = figures[0].axes[0]
    (image,) = axes.images
    shares = np.asarray(image.get_array()) ** 2
    assert shares.shape == (classes, classes)
    assert np.allclose(shares[0, :2], [0.75, 0.25]) and shares[1, 1] == 1 and shares[1, 0] == 0
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert (ticks == names) == (classes <= 40)
    cells = {t.get_position(): t.get_text() for t in axes.texts if t.get_text()}
    counts = {(i, i): "9" for i in range(classes)} | {(1, 0): "3"}  # (column, row)
    assert cells == (counts if classes <= 15 else {})
    assert axes.get_title().startswith(f"{9 * classes:,} of {9 * classes + 3:,} images right")
    # The picture isn't larger than a screen.
    height, width, _ = pixels_of(tmp_path / "confusion.png").shape
    assert 400 < width < 2500 and 400 < height < 2500


def test_a_confusion_cell_is_the_darker_the_larger_its_share(tmp_path, figures):
    counts = np.array([[97, 1, 2, 0], [5, 75, 15, 5], [10, 40, 50, 0], [0, 0, 0, 100]])
    plots.plot_confusion(counts, [], tmp_path / "confusion.png")
    figure = figures[0]
    axes = figure.axes[0]
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int).sum(axis=-1)
    brightness = {}
    for (row, column), count in np.ndenumerate(counts):
        # Near a corner of the cell, where its number isn't.
        x, y = axes.transData.transform((column - 0.4, row - 0.4))
        brightness.setdefault(count, set()).add(int(drawn[len(drawn) - 1 - int(y), int(x)]))
    ordered = [brightness[count] for count in sorted(brightness)]
    assert all(max(darker) < min(lighter) for lighter, darker in zip(ordered, ordered[1:]))


def test_confusion_lists_the_worst_pair_of_a_thousand_classes(tmp_path, figures):
    matrix = np.eye(1000, dtype=int) * 40
    matrix[7, 9] = 10
    plots.plot_confusion(matrix, [f"n{i}" for i in range(1000)], tmp_path / "c.png")
    cells, side = figures[0].axes
    assert "10 of 50  n7 → n9" in side.texts[0].get_text()
    (dots,) = cells.collections
    assert dots.get_offsets().tolist() == [[9, 7]]  # column, row


def test_a_class_without_images_and_without_a_name_is_drawn_empty(tmp_path, figures):
    plots.plot_confusion([[0, 0], [1, 3]], [], tmp_path / "c.png")
    axes = figures[0].axes[0]
    assert np.allclose(np.asarray(axes.images[0].get_array()) ** 2, [[0, 0], [0.25, 0.75]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1"]


def test_wrong_shapes_are_value_errors(tmp_path):
    with pytest.raises(ValueError, match="square"):
        plots.plot_confusion([[1, 2]], ["a"], tmp_path / "c.png")
    with pytest.raises(ValueError, match="1 class names for 2 classes"):
        plots.plot_confusion([[1, 0], [0, 1]], ["a"], tmp_path / "c.png")
    with pytest.raises(ValueError, match="classes"):
        plots.write_per_class(tmp_path / "p.csv", ["a"], [[1, 0], [0, 1]])


def test_a_class_whose_name_is_not_utf_8_has_a_row(tmp_path):
    plots.write_per_class(tmp_path / "a.csv", [os.fsdecode(b"caf\xe9")], [[1]])
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "caf\\udce9,1,1,100.00,0"


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
