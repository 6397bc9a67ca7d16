"""The profile of a training step: which part an operator belongs to, and the limit of a part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.profile_limits import MachineLimits, limits_of_parts, measure_machine
from benchmarks.profile_operators import part_of_native, part_of_stock
from tools.pages import profile

ROOT = Path(__file__).resolve().parents[2]
BLOCK = "network-GhostResNet/layer1-SequentialCell/0-GhostBottleneck"
CONV = f"{BLOCK}/conv1-GhostModule/primary-ConvNormAct/conv-Conv2d"
DEPTHWISE = f"{BLOCK}/conv1-GhostModule/cheap-ConvNormAct/conv-Conv2d"


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
def test_every_stock_operator_belongs_to_a_part(kind, scope, part, words):
    assert part_of_stock(kind, scope) == (part, words)


def test_a_native_operator_belongs_to_a_part_by_its_name_even_a_new_one():
    assert part_of_native("ghost_conv_backward_weight")[0] == profile.BACKWARD_WEIGHT
    assert part_of_native("ghost_tail_add") == (profile.TAILS, "ghost_tail_add")
    assert part_of_native("ghost_new_backward") == (profile.TAILS_BACKWARD, "ghost_new")


def test_the_limit_is_the_longer_of_arithmetic_and_memory():
    machine = MachineLimits(operations=100.0, bandwidth=10.0)
    assert (machine.seconds(200, 10), machine.seconds(100, 50)) == (2.0, 5.0)


def test_peaks_are_measured_with_a_compiler_and_without(monkeypatch):
    for path in ("", None):
        if path is not None:
            monkeypatch.setenv("CXX", "no-such-compiler")
        machine = measure_machine()
        # Any machine has more than 0.1 GFLOP/s and less than 100 TFLOP/s.
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
    # Twice the images have twice the feature maps and the same weights.
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
def test_a_profile_has_every_part_of_a_step_and_every_native_operator():
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
    # A convolution's gradient adds the gradients of a block's two branches itself.
    none = (profile.BETWEEN, profile.SUMS)
    assert all(time > 0 for part, time in times.items() if part not in none), times
    operators = {operator for _, operator, _ in answer["milliseconds"]}
    assert {"ghost_tail", "ghost_tail_add", "ghost_stem", "convolutions"} <= operators
    assert set(answer["limits"]) <= set(profile.PARTS)
