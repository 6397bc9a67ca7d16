"""An .onnx file that reads handwritten digits, made in two seconds without MindSpore.

A convolution with fixed random weights, and a linear layer fitted by least squares.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from mindcv_ghost.data.sets.digits import DIGITS_HELD_OUT
from mindcv_ghost.inference.description import ModelDescription, Preprocessing

SIDE = 32
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PREPROCESSING = Preprocessing(SIDE, SIDE, SIDE)
_MAPS, _POOL = 8, 4


def digits(held_out: bool) -> tuple[list[Image.Image], np.ndarray]:
    """The digits of one split as the data set writes them (64 x 64 pixels), and their labels."""
    scans = load_digits()
    split = train_test_split(
        np.arange(len(scans.target)),
        test_size=DIGITS_HELD_OUT,
        stratify=scans.target,
        random_state=0,
    )[held_out]
    images = np.round(scans.images[split] * (255 / 16)).astype(np.uint8)
    return [Image.fromarray(i).resize((64, 64), Image.BICUBIC) for i in images], scans.target[split]


DESCRIPTION = ModelDescription(
    model="digits_conv",
    num_classes=10,
    preprocessing=PREPROCESSING,
    class_names=NAMES,
    accuracy={"top1": 95.0, "top5": 99.5, "images": DIGITS_HELD_OUT, "split": "val"},
    checkpoint={"file": "best.ckpt", "sha256": "0" * 64, "ema": False},
)


def write_digits_onnx(
    path: Path, description: ModelDescription | None = DESCRIPTION, batch: int | None = None
) -> None:
    """Write the network; with a description in its metadata, and with a fixed batch if given.

    If the description has ``embedded_preprocessing``, the graph takes uint8 (1, H, W, 3).
    """
    model = onnx.ModelProto.FromString(_network())
    if batch is not None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    if description is not None and description.embedded_preprocessing:
        _embed(model.graph)
    metadata = {} if description is None else description.to_metadata()
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


def _embed(graph: onnx.GraphProto) -> None:
    """Put a resizing (linear, no antialiasing) and the normalisation before the network."""
    constants = {
        "empty": np.zeros(0, np.float32),
        "sizes": np.array([1, 3, SIDE, SIDE], np.int64),
        "mean": np.array(PREPROCESSING.mean, np.float32).reshape(3, 1, 1),
        "std": np.array(PREPROCESSING.std, np.float32).reshape(3, 1, 1),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    nodes = [
        helper.make_node("Cast", ["picture"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["planes", "empty", "empty", "sizes"], ["small"], mode="linear"),
        helper.make_node("Sub", ["small", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], ["image"]),
        *graph.node,
    ]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    dims = [1, "height", "width", 3]
    graph.input.append(helper.make_tensor_value_info("picture", TensorProto.UINT8, dims))


@lru_cache(maxsize=1)
def _network() -> bytes:
    generator = np.random.default_rng(0)
    filters = generator.normal(0, 0.3, (_MAPS, 3, 3, 3)).astype(np.float32)
    images, labels = digits(held_out=False)
    features = _features(filters, _inputs(images))
    targets = np.eye(10)[labels] * 12 - 1.2
    spread = np.eye(features.shape[1]) * 30
    mean = features.mean(axis=0)
    centred = features - mean
    weight = np.linalg.solve(centred.T @ centred + spread, centred.T @ targets)
    bias = targets.mean(axis=0) - mean @ weight
    constants = {
        "filters": filters,
        "weight": weight.astype(np.float32),
        "bias": bias.astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "filters"], ["maps"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["maps"], ["active"]),
        helper.make_node(
            "AveragePool", ["active"], ["pooled"], kernel_shape=[_POOL] * 2, strides=[_POOL] * 2
        ),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "weight", "bias"], ["logits"]),
    ]
    dims = {"image": ["batch", 3, SIDE, SIDE], "logits": ["batch", 10]}
    ends = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, d) for n, d in dims.items()}
    graph = helper.make_graph(
        nodes,
        "digits",
        [ends["image"]],
        [ends["logits"]],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return model.SerializeToString()


def _inputs(images: list[Image.Image]) -> np.ndarray:
    """Half the size, normalised; close to what validation makes, which is enough for fitting."""
    pixels = np.stack([np.asarray(image, np.float32) for image in images])
    halved = pixels.reshape(len(images), SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    mean, std = (np.array(v, np.float32) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    return (halved[:, None] - mean[:, None, None]) / std[:, None, None]


def _features(filters: np.ndarray, inputs: np.ndarray) -> np.ndarray:
    padded = np.pad(inputs, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    maps = np.maximum(np.einsum("nchwij,mcij->nmhw", windows, filters, optimize=True), 0)
    side = SIDE // _POOL
    return (
        maps.reshape(len(inputs), _MAPS, side, _POOL, side, _POOL)
        .mean(axis=(3, 5))
        .reshape(len(inputs), -1)
    )
