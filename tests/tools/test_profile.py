"""The profile's table and chart are of profile.csv; its operators and limits are counted right."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.profile_limits import MachineLimits, limits_of_parts, measure_machine
from benchmarks.profile_operators import part_of_native, part_of_stock
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.plots import chart_digest
from tools.pages import profile

ROOT = Path(__file__).resolve().parents[2]
FACTS = {"peak_gflops": 200, "peak_gbytes": 40, "case": "n, training, 2 images of 8x8"}
FACTS |= {"machine": "a CPU", "versions": "x 1", "commit": "abc", "date": "2026-01-01"}
BLOCK = "network-GhostResNet/layer1-SequentialCell/0-GhostBottleneck"
CONV = f"{BLOCK}/conv1-GhostModule/primary-ConvNormAct/conv-Conv2d"
DEPTHWISE = f"{BLOCK}/conv1-GhostModule/cheap-ConvNormAct/conv-Conv2d"


def row(operators, part, operator, ms, gflop="", mbytes=""):
    values = (operators, part, operator, ms, gflop, mbytes)
    return {**dict(zip(profile.COLUMNS, values)), **FACTS}


ROWS = [
    row("limit", profile.FORWARD, "", 100, 20, 8),
    row("limit", profile.TAILS, "", 10, 1, 400),
    row("stock", profile.FORWARD, "convolutions", 300),
    row("stock", profile.TAILS, "BN", 50),
    row("stock", profile.TAILS, "ReLU", 0.5),
    row("native", profile.FORWARD, "convolutions", 150),
    row("native", profile.TAILS, "ghost_tail", 25),
    row("native", profile.BETWEEN, "starting operators", 8),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "profile.csv"
    with open(path, "w", newline="") as out:
        writer = csv.DictWriter(out, profile.COLUMNS)
        writer.writeheader()
        writer.writerows(ROWS)
    return path


def test_each_part_has_its_times_its_limit_and_what_sets_it(file):
    text = profile.part_table(profile.read_profile(file))
    assert f"| {profile.FORWARD} | 300.0 | 150.0 | 100.0 | 20 GFLOP | 1.5 |" in text
    assert f"| {profile.TAILS} | 50.5 | 25.0 | 10.0 | 400 MB | 2.5 |" in text
    assert f"| {profile.BETWEEN} | 0.0 | 8.0 | – | – | – |" in text
    assert "| **all** | 350.5 | 183.0 | 110.0 | – | 1.7 |" in text
    assert "200 GFLOP/s or move 40 GB/s" in text and "a CPU; x 1; commit abc." in text
    assert profile.OPTIMIZER not in text


def test_operators_stand_by_part_the_longest_first_and_trifles_not_at_all(file):
    lines = profile.operator_table(profile.read_profile(file)).splitlines()[2:]
    assert [line.split(" | ")[2] for line in lines] == [
        *("convolutions", "BN"),
        *("convolutions", "ghost_tail", "starting operators"),
    ]


def test_without_a_profile_the_page_says_so(tmp_path):
    assert profile.read_profile(tmp_path / "none.csv") == []
    assert profile.part_table([]) == profile.operator_table([]) == "not measured\n"


@pytest.mark.parametrize(
    ("old", "new"), [("limit", "guess"), (profile.TAILS, "Tails"), ("20", "many"), ("ms", "s")]
)
def test_a_damaged_profile_is_told_with_its_line(file, old, new):
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ReportError, match=r"profile\.csv, line [23]: "):
        profile.read_profile(file)


def test_the_chart_carries_the_digest_of_its_profile(file, tmp_path):
    pytest.importorskip("matplotlib")
    assert profile.main([str(file), str(tmp_path / "chart.png")]) == 0
    assert (tmp_path / "chart.png").read_bytes().endswith(chart_digest(file).encode())


def test_the_projects_chart_is_of_the_projects_profile():
    digest = chart_digest(ROOT / "benchmarks" / "profile.csv")
    png = ROOT / "docs" / "performance_profile.png"
    assert png.read_bytes().endswith(digest.encode()), "stale: make bench draws it anew"


@pytest.mark.parametrize(
    ("kind", "scope", "part", "words"),
    [
        ("Conv2D", f"Default/{CONV}/Conv2D-op0", profile.FORWARD, "convolutions"),
        ("Conv2DBackpropInput", f"Gradients/{CONV}", profile.BACKWARD_INPUT, "convolutions"),
        ("Conv2DBackpropFilter", f"Gradients/{CONV}", profile.BACKWARD_WEIGHT, "convolutions"),
        ("Conv2D", f"Default/{DEPTHWISE}", profile.TAILS, "depthwise convolutions"),
        ("Conv2DBackpropInput", DEPTHWISE, profile.TAILS_BACKWARD, "depthwise convolutions"),
        ("Conv2DBackpropFilter", DEPTHWISE, profile.TAILS_BACKWARD, "depthwise convolutions"),
        ("BatchNorm", f"Default/{BLOCK}/bn-BatchNorm2d", profile.TAILS, "BN"),
        ("BatchNormGrad", "Gradients/Default/bn1/Grad_BatchNorm", profile.TAILS_BACKWARD, "BN"),
        ("Slice", "Expand/_SplitWithSize", profile.TAILS_BACKWARD, "concatenation and slices"),
        ("Add", f"Default/{BLOCK}/Add-op0", profile.TAILS, "sum with the shortcut"),
        ("AddN", f"Gradients/{BLOCK}/AddN-op0", profile.SUMS, "sums of gradients"),
        ("AddN", "Default/updater-_Update/AddN-op0", profile.FINITE, "MindSpore's operators"),
        (
            "ApplyMomentum",
            "Default/updater-_Update/optimizer-Momentum",
            profile.OPTIMIZER,
            "momentum",
        ),
        ("Assign", "Default/network/Assign-op1", profile.COPIES, "assignments and copies"),
        ("MatMul", "Default/network/classifier-Dense", profile.HEAD, "MindSpore's operators"),
        ("AddN", "Gradients/Default/loss-CrossEntropy", profile.HEAD, "MindSpore's operators"),
        ("ReduceMean", "Default/ReduceMean-op0", profile.HEAD, "MindSpore's operators"),
    ],
)
def test_every_operator_of_mindspore_belongs_to_a_part(kind, scope, part, words):
    assert part_of_stock(kind, scope) == (part, words)


def test_an_operator_of_ours_belongs_to_a_part_by_its_name_even_a_new_one():
    assert part_of_native("ghost_conv_backward_weight")[0] == profile.BACKWARD_WEIGHT
    assert part_of_native("ghost_tail_add") == (profile.TAILS, "ghost_tail_add")
    assert part_of_native("ghost_new_backward") == (profile.TAILS_BACKWARD, "ghost_new")


def test_the_limit_is_what_takes_longer_operations_or_memory():
    machine = MachineLimits(operations=100.0, bandwidth=10.0)
    assert (machine.seconds(200, 10), machine.seconds(100, 50)) == (2.0, 5.0)


def test_a_machines_peaks_are_measured_with_a_compiler_and_without(monkeypatch):
    for path in ("", None):
        if path is not None:
            monkeypatch.setenv("CXX", "no-such-compiler")
        machine = measure_machine()
        # A watch has more than a GFLOP/s; no two cores have 100 TFLOP/s.
        assert 1e8 < machine.operations < 1e14 and 1e8 < machine.bandwidth < 1e13
        monkeypatch.undo()


def test_limits_count_each_tensor_once_and_each_gradient_as_its_convolution():
    import mindcv

    import mindcv_ghost  # noqa: F401 (registers the zoo)
    from mindcv_ghost.analysis.complexity import count_macs

    network = mindcv.create_model("ghost_resnet50")
    report = count_macs(network, (1, 3, 64, 64))
    one, two = (limits_of_parts(network, batch, 64) for batch in (1, 2))
    dense = {layer.name: layer for layer in report.layers if ".cheap." not in layer.name}
    convolutions = [layer for layer in dense.values() if layer.kind == "Conv2d"]
    operations = 2 * sum(layer.macs for layer in convolutions)
    assert one[profile.FORWARD][0] == operations == two[profile.BACKWARD_WEIGHT][0] / 2
    assert operations - one[profile.BACKWARD_INPUT][0] == 2 * dense["conv1"].macs
    depthwise = 2 * sum(layer.macs for layer in report.layers if ".cheap." in layer.name)
    assert (one[profile.TAILS][0], one[profile.TAILS_BACKWARD][0]) == (depthwise, 2 * depthwise)
    # Twice the images: twice the maps, and the same weights.
    weights = sum(layer.parameters for layer in convolutions)
    assert 2 * one[profile.FORWARD][1] - two[profile.FORWARD][1] == 4 * weights
    assert one[profile.OPTIMIZER][1] == 20 * report.parameters == 5 * one[profile.FINITE][1]
    # Stem: 64 maps of 32x32 in and of 16x16 out. First block's conv1 and conv2: 32 in, 64 out, of
    # 16x16; conv3: 128 in, 256 out, and a shortcut of 256; the shortcut's own: 128 in, 256 out.
    first = 64 * 32 * 32 + 16 * 16 * (64 + 2 * (32 + 64) + (128 + 2 * 256) + (128 + 256))
    later = 16 * 16 * 2 * (2 * (32 + 64) + (128 + 2 * 256))
    rest = 0
    for side, blocks, width in ((8, 4, 128), (4, 6, 256), (2, 3, 512)):
        plane = side * side
        first_conv = 4 * plane  # the stride is conv2's
        rest += (width // 2 + width) * (first_conv + (blocks - 1) * plane)
        rest += blocks * plane * (width // 2 + width + 2 * width + 8 * width)
        rest += plane * (2 * width + 4 * width)
    assert one[profile.TAILS][1] == 4 * (first + later + rest)


@pytest.mark.slow
def test_a_profile_has_every_part_of_a_step_and_every_operator_of_ours():
    command = [sys.executable, str(ROOT / "benchmarks" / "profile_step.py"), "--only", "native"]
    command += ["--batch", "2", "--side", "32", "--steps", "2"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=280)
    if "no native operators" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    lines = [line for line in done.stdout.splitlines() if line.startswith("answer ")]
    assert lines, done.stdout + done.stderr
    answer = json.loads(lines[0].removeprefix("answer "))
    times = {part: 0.0 for part in profile.PARTS}
    for part, _, milliseconds in answer["milliseconds"]:
        times[part] += milliseconds
    # Gradients of a block's two branches are summed up in a convolution's own gradient.
    none = (profile.BETWEEN, profile.SUMS)
    assert all(time > 0 for part, time in times.items() if part not in none), times
    operators = {operator for _, operator, _ in answer["milliseconds"]}
    assert {"ghost_tail", "ghost_tail_add", "ghost_stem", "convolutions"} <= operators
    assert set(answer["limits"]) <= set(profile.PARTS)
