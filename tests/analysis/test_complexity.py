"""Counts of parameters and MACs equal the references', and counting leaves a network unchanged."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import mindcv
import mindspore as ms
import numpy as np
import pytest
import yaml
from mindspore import Tensor, nn

import mindcv_ghost  # noqa: F401
from mindcv_ghost.analysis.complexity import (
    count_macs,
    count_moving_statistics,
    count_parameters,
    main,
)

REFERENCE = Path(__file__).parents[1] / "facts" / "reference_counts.csv"
with REFERENCE.open(encoding="utf-8", newline="") as file:
    ROWS = list(csv.DictReader(file))


# Each of the others takes seconds and has the same blocks as one of these.
QUICK = {
    "g_ghost_regnetx_002",
    "ghost_resnet50 ratio=2 cheap_kernel_size=3",
    "ghost_resnet56_cifar num_classes=10 ratio=2 cheap_kernel_size=1",
    "ghost_vgg16_cifar num_classes=10 ratio=2 cheap_kernel_size=3",
    "ghostnetv3_050 deploy=true",
    "repghostnet_050",
}
COUNTERPARTS = [
    pytest.param(
        row,
        marks=() if row["counterpart"] in QUICK else pytest.mark.zoo,
        id=f"{row['counterpart']} ({row['source']}, {row['variant']})",
    )
    for row in ROWS
    if row["counterpart"]
]


def test_every_reference_has_a_counterpart_or_a_reason():
    assert len(ROWS) == 112
    assert all(bool(row["counterpart"]) != bool(row["no_counterpart"]) for row in ROWS)


def test_every_registered_ghost_network_has_a_reference():
    # Without a reference: depths that nobody else counted, and names that fix a ratio.
    uncounted = {f"ghost_resnet{depth}_cifar" for depth in (20, 32, 44, 110)}
    uncounted |= {f"ghost_resnet50_s{ratio}" for ratio in (2, 3, 4, 5)}
    families = ("ghost_*", "ghostnet*", "repghost*", "g_ghost*")
    registered = {name for pattern in families for name in mindcv.list_models(pattern)}
    counted = {row["counterpart"].split(" ")[0] for row in ROWS}
    assert registered - counted == uncounted


@pytest.mark.parametrize("row", COUNTERPARTS)
def test_counts_equal_the_references(row):
    # As in create_model("ghost_resnet50", ratio=2).
    name, *pairs = row["counterpart"].split(" ")
    arguments = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in pairs)}
    network = mindcv.create_model(name, **arguments)
    parameters = count_parameters(network)
    if "moving statistics" in row["variant"]:
        parameters += count_moving_statistics(network)
    assert parameters == int(row["params"])
    if not row["macs"]:
        return
    report = count_macs(network, (1, *map(int, row["input"].split("x"))))
    assert report.macs == sum(layer.macs for layer in report.layers)
    # The row says if the paper counts convolutions only.
    conv_only = (
        "conv-only" in row["how"] or "as above" in row["how"] or row["model"] == "vgg16_cifar"
    )
    counted = [layer for layer in report.layers if not conv_only or layer.kind == "Conv2d"]
    assert sum(layer.macs for layer in counted) == int(row["macs"])


def test_running_statistics_are_counted_separately():
    network = mindcv.create_model("ghostnet_100")
    # MindCV's page says 5.20M for this network: the sum of both.
    assert count_parameters(network) == 5_182_508
    assert count_parameters(network) + count_moving_statistics(network) == 5_204_476


class Mixed(nn.Cell):
    """One layer of each kind, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(4, 6, 3, stride=2, pad_mode="pad", padding=1, group=2)
        self.up = nn.Conv2dTranspose(6, 5, 2, stride=2, pad_mode="valid")
        self.norm = nn.BatchNorm2d(5)
        self.line = nn.Conv1d(5, 7, 3, pad_mode="valid")
        self.linear = nn.Dense(7, 7)

    def construct(self, x):
        x = self.norm(self.up(self.grouped(x)))
        x = self.line(x.reshape(x.shape[0], 5, -1))
        x = x.swapaxes(1, 2)
        return self.linear(self.linear(x))


def test_every_kind_of_layer_has_the_macs_counted_by_hand():
    report = count_macs(Mixed(), (2, 4, 8, 8))
    macs = {}
    for layer in report.layers:
        macs[layer.name] = macs.get(layer.name, 0) + layer.macs
    assert macs == {
        "grouped": 2 * (4 * 4) * 6 * (4 // 2) * 9,
        "up": 2 * (4 * 4) * 6 * 5 * (2 * 2),
        "line": 2 * 62 * 5 * 7 * 3,
        "linear": 2 * (2 * 62 * 7 * 7),
    }
    assert [layer.name for layer in report.layers].count("linear") == 2
    assert report.layers[0].output_shape == (2, 6, 4, 4)


def test_a_linear_layer_with_an_activation_is_counted():
    network = nn.SequentialCell(nn.Dense(512, 256, activation="relu"), nn.Dense(256, 10))
    report = count_macs(network, (1, 512))
    assert [layer.macs for layer in report.layers] == [512 * 256, 256 * 10]


def test_counting_changes_neither_mode_nor_flags_nor_statistics():
    before = ms.get_context("mode")
    network = mindcv.create_model("ghost_resnet18", num_classes=3).set_train()
    network.bn1.set_train(False)
    statistics = network.bn1.moving_mean.asnumpy().copy()
    flags = [cell.training for _, cell in network.cells_and_names()]
    ms.set_context(mode=ms.GRAPH_MODE)
    try:
        report = count_macs(network, (1, 3, 64, 64))
        assert ms.get_context("mode") == ms.GRAPH_MODE
    finally:
        ms.set_context(mode=before)
    assert report.macs > 0
    assert [cell.training for _, cell in network.cells_and_names()] == flags
    assert network.phase == "train"
    np.testing.assert_array_equal(network.bn1.moving_mean.asnumpy(), statistics)
    # The hooks are removed: later runs, and runs of other networks, add no rows.
    rows = len(report.layers)
    network(Tensor(np.zeros((1, 3, 64, 64), np.float32)))
    assert len(report.layers) == rows
    assert len(count_macs(network, (1, 3, 64, 64)).layers) == rows


def test_a_network_under_mixed_precision_counts_the_same():
    plain = count_macs(mindcv.create_model("ghost_resnet18"), (1, 3, 64, 64))
    network = ms.amp.auto_mixed_precision(mindcv.create_model("ghost_resnet18"), "O2")
    mixed = count_macs(network, (1, 3, 64, 64))
    assert (mixed.parameters, mixed.macs) == (plain.parameters, plain.macs)


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_command_prints_a_table(capsys):
    status, out, _ = run(capsys, "ghost_resnet18", "resnet18", "--image_size", "64")
    lines = out.splitlines()
    assert status == 0
    head = ["model", "input", "parameters", "moving_statistics", "macs", "activations"]
    assert lines[0].split() == [*head, "peak_bytes"]
    assert lines[1].split()[:3] == ["ghost_resnet18", "3x64x64", "6,132,072"]
    assert lines[2].split()[:3] == ["resnet18", "3x64x64", "11,689,512"]


def test_command_prints_json_with_a_row_for_each_layer(capsys):
    argv = ["ghost_resnet18", "--model_args", "ratio=4", "--image_size", "64"]
    status, out, _ = run(capsys, *argv, "--json", "--layers")
    *layers, total = json.loads(out)
    assert status == 0
    assert total["parameters"] == 3_353_352
    assert sum(layer["macs"] for layer in layers) == total["macs"]
    assert layers[0]["layer"] == "conv1" and layers[-1]["layer"] == "classifier"


def test_command_prints_csv(capsys):
    status, out, _ = run(capsys, "ghost_resnet18", "--csv", "--image_size", "32")
    (row,) = csv.DictReader(out.splitlines())
    assert status == 0
    assert (row["model"], row["parameters"]) == ("ghost_resnet18", "6132072")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ghost_resnet19"], "there is no model 'ghost_resnet19'"),
        (["ghost_resnet18", "--model_args", "ratio"], "--model_args takes names with values"),
        (
            ["ghost_resnet18", "--model_args", "checkpoint_path=x.ckpt"],
            "checkpoint_path is an option of its own: --ckpt_path",
        ),
        (["ghost_resnet18", "--model_args", "ratio=65"], "ratio is 65, but a Ghost module of 64"),
        (["ghost_resnet18", "--model_args", "ratoi=4"], "ratoi"),
        (["ghost_resnet18", "--image_size", "-1"], "--image_size is -1; it must be at least 1"),
        (["vgg11", "--image_size", "96"], "vgg11 can't be run on images of 96x96: "),
        (["rexnet_09"], "rexnet_09 can't be built under MindSpore"),
    ],
)
def test_bad_arguments_end_with_status_2_and_no_traceback(capsys, argv, message):
    status, out, err = run(capsys, *argv)
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err


class Residual(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 3)
        self.relu = nn.ReLU()
        self.last = nn.Conv2d(8, 4, 1)

    def construct(self, x):
        y = self.first(x)
        z = self.relu(self.second(y))
        z = z + y
        return self.last(z)


def test_activations_and_live_memory_equal_counts_by_hand():
    report = count_macs(Residual(), (1, 3, 8, 8))
    x, y, out = 3 * 64 * 4, 8 * 64 * 4, 4 * 64 * 4  # bytes
    assert [layer.activations for layer in report.layers] == [512, 512, 256]
    assert report.activations == 1280
    # The caller keeps the image alive; the variable y keeps its tensor alive beyond the sum.
    assert [layer.live_bytes for layer in report.layers] == [x + y, x + 2 * y, x + 2 * y + out]
    weights = 4 * (3 * 8 * 9 + 8 * 8 * 9 + 8 * 4)
    # At the ReLU its input, its output and y are alive.
    assert report.peak_bytes == x + 3 * y + weights
