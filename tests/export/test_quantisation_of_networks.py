"""Exported Ghost networks become integers from the image to the logits."""

from __future__ import annotations

import collections

import mindspore as ms
import numpy as np
import onnx
import onnxruntime
import pytest

import mindcv_ghost
from mindcv_ghost.export import build_onnx
from mindcv_ghost.export.quantisation import Scheme
from mindcv_ghost.export.quantisation.calibration import calibrate
from mindcv_ghost.export.quantisation.insertion import insert_quantisation, prepare
from mindcv_ghost.export.quantisation.layers import weighted_layers

# Networks with random weights, and the kinds of their layers.
CIFAR = ("ghost_resnet20_cifar", 32, {"primary": 18, "cheap": 19})
LARGE = [
    ("ghost_resnet50", 64, {"primary": 48, "cheap": 48, "shortcut primary": 4}),
    ("ghostnet_100", 64, {"primary": 32, "cheap": 32, "squeeze-excite": 14}),
    ("ghostnetv2_100", 64, {"primary": 32, "cheap": 32, "squeeze-excite": 14}),
    ("repghostnet_100", 64, {"primary": 32, "cheap": 32, "shortcut depthwise": 5}),
]


pytestmark = pytest.mark.usefixtures("graph_mode")


def check(name: str, side: int, kinds: dict[str, int], folder) -> None:
    ms.set_seed(1)
    network = mindcv_ghost.create_model(name, num_classes=10)
    exported = build_onnx(
        network, image_size=(side, side), in_channels=3, dynamic=("batch",), fp16=False
    )
    model = prepare(exported)
    layers = weighted_layers(model)
    found = collections.Counter(layer.kind for layer in layers)
    assert {kind: found[kind] for kind in kinds} == kinds
    assert (found["stem"], found["classifier"]) == (1, 1)

    random = np.random.default_rng(0)
    images = [random.normal(size=(8, 3, side, side)).astype(np.float32) for _ in range(2)]
    quantised = insert_quantisation(model, calibrate(model, images, "MinMax"), Scheme("uint8"))
    onnx.checker.check_model(quantised, full_check=True)
    assert {each.domain for each in quantised.opset_import} == {""}

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3
    data = quantised.SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(options.optimized_model_filepath)
    count = collections.Counter(node.op_type for node in optimised.graph.node)
    assert count["QLinearConv"] + count["QGemm"] == len(layers)
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "Add", "Concat"} & set(count)


def test_a_small_ghost_network_has_no_layer_left_in_float32(tmp_path):
    check(*CIFAR, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name, side, kinds", LARGE)
def test_no_ghost_network_has_a_layer_left_in_float32(name, side, kinds, tmp_path):
    check(name, side, kinds, tmp_path)
