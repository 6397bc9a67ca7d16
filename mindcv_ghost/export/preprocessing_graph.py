"""Preprocessing as a part of the ONNX graph: pictures in, as bytes of any size; logits out.

ONNX's Resize operator isn't used. Validation resizes as OpenCV does, in whole numbers: weights of
11 bits, rows first, and the sums shifted (``data/native/cpp/resize.h``). Interpolation in floats,
as Resize does it, rounds other pixels up or down. A Gather of the two neighbours and the same
arithmetic in int32 give validation's pixels bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mindcv_ghost.errors import ConfigError
from mindcv_ghost.inference.description import Preprocessing

__all__ = ["embed_preprocessing", "preprocessing_nodes"]

_PREFIX = "preprocessing/"
_MAX_ASPECT = 100  # as image_file's MAX_ASPECT: of a longer ribbon only the middle is resized
_ONE = 2048  # a weight of 1
# OpenCV's grey: weights of red, green and blue, of 15 bits.
_GREY = (9798, 19235, 3735)


def embed_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Put the preprocessing in front of a network.

    Args:
        model: has one input, float32 (N, C, H, W); stays as it is.
        preprocessing: resize, crop, mean and deviation; bilinear.

    Returns:
        A model with one input ``image``, uint8 (N, height, width, 3), RGB, of any height and width,
        and the outputs of ``model``.

    Raises:
        ConfigError: if the interpolation isn't bilinear.
    """
    embedded = onnx.ModelProto()
    embedded.CopyFrom(model)
    graph = embedded.graph
    [inner] = graph.input
    batch = inner.type.tensor_type.shape.dim[0]
    prepared = f"{_PREFIX}output"
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == inner.name:
                node.input[place] = prepared
    nodes, constants = preprocessing_nodes(preprocessing, "image", prepared)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *body])
    graph.initializer.extend(constants)
    size: list[Any] = [batch.dim_param or batch.dim_value, "height", "width", 3]
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("image", TensorProto.UINT8, size))
    onnx.checker.check_model(embedded, full_check=True)
    return embedded


def preprocessing_nodes(
    preprocessing: Preprocessing, image: str, prepared: str
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Make the nodes and constants that prepare a batch of pictures of one size.

    Args:
        preprocessing: what to do.
        image: name of the input, uint8 (N, height, width, 3).
        prepared: name to give to the output, float32 (N, C, H, W).

    Raises:
        ConfigError: if the interpolation isn't bilinear.
    """
    if preprocessing.interpolation != "bilinear":
        raise ConfigError(
            f"the ONNX file can resize bilinearly only, and the recipe's interpolation is "
            f"{preprocessing.interpolation}: leave embed_preprocess out"
        )
    nodes = _Nodes()
    shape = nodes.add("Shape", image)
    high, wide = (nodes.add("Gather", shape, nodes.int64(axis), axis=0) for axis in (1, 2))
    if isinstance(preprocessing.resize, int):
        top, left = _cut(nodes, high, wide), _cut(nodes, wide, high)
        high, wide = _without(nodes, high, top), _without(nodes, wide, left)
        resized = _short_side(nodes, high, wide, preprocessing.resize)
    else:
        top = left = nodes.int64(0)
        height, width = preprocessing.resize
        resized = nodes.int64(height), nodes.int64(width)
    rows = _Taps(nodes, high, resized[0], preprocessing.height, top, ends_rounded=False)
    columns = _Taps(nodes, wide, resized[1], preprocessing.width, left, ends_rounded=True)
    pixels = _resize(nodes, image, rows, columns)
    _normalise(nodes, pixels, preprocessing, prepared)
    return nodes.nodes, nodes.constants


class _Nodes:
    """Collects nodes, whose outputs it names, and constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = output or f"{_PREFIX}{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, value: Any, dtype: type) -> str:
        """Add a constant; return its name."""
        name = f"{_PREFIX}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def int64(self, value: int) -> str:
        """Add a whole number; return its name."""
        return self.constant(value, np.int64)

    def cast(self, value: str, to: int) -> str:
        """Convert to another type."""
        return self.add("Cast", value, to=to)


def _cut(nodes: _Nodes, side: str, other: str) -> str:
    """Return the pixels to cut at either end of a ribbon's side."""
    longest = nodes.add("Mul", other, nodes.int64(_MAX_ASPECT))
    excess = nodes.add("Max", nodes.add("Sub", side, longest), nodes.int64(0))
    return nodes.add("Div", excess, nodes.int64(2))


def _without(nodes: _Nodes, side: str, cut: str) -> str:
    return nodes.add("Sub", side, nodes.add("Mul", cut, nodes.int64(2)))


def _short_side(nodes: _Nodes, high: str, wide: str, resize: int) -> tuple[str, str]:
    """Return height and width after resizing so that the short side is ``resize``.

    The long side is computed in float32 and rounded down, as MindSpore does.
    """
    floats = {side: nodes.cast(side, TensorProto.FLOAT) for side in (high, wide)}
    factor, short = nodes.constant(resize, np.float32), nodes.int64(resize)
    is_wide = nodes.add("Less", floats[high], floats[wide])

    def long_side(long: str, other: str) -> str:
        ratio = nodes.add("Div", floats[long], floats[other])
        product = nodes.add("Floor", nodes.add("Mul", ratio, factor))
        return nodes.cast(product, TensorProto.INT64)

    height = nodes.add("Where", is_wide, short, long_side(high, wide))
    width = nodes.add("Where", is_wide, long_side(wide, high), short)
    return height, width


class _Taps:
    """The two neighbours of each output row or column, and their weights.

    Args:
        nodes: gets the nodes.
        size: pixels of the side before resizing.
        resized: pixels of the side after it.
        count: pixels of the centre crop, which alone are computed.
        start: of the side in the picture.
        ends_rounded: whether the outermost pixel has weight 1 beyond the ends, as for columns; rows
            keep both weights, on the same pixel.

    Attributes:
        indices: names of both neighbours' indices in the picture, int64 (count,).
        weights: names of their weights, int32 (count,).
        inside: name of a Boolean (count,): False for the border of a crop larger than the picture.
    """

    def __init__(
        self,
        nodes: _Nodes,
        size: str,
        resized: str,
        count: int,
        start: str,
        *,
        ends_rounded: bool,
    ) -> None:
        # Rounded down, because MindSpore makes the larger half of an odd border come first. Div of
        # whole numbers would round towards 0.
        excess = nodes.cast(nodes.add("Sub", resized, nodes.int64(count)), TensorProto.FLOAT)
        offset = nodes.add("Floor", nodes.add("Mul", excess, nodes.constant(0.5, np.float32)))
        offset = nodes.cast(offset, TensorProto.INT64)
        position = nodes.add("Add", nodes.constant(np.arange(count), np.int64), offset)
        not_before = nodes.add("Not", nodes.add("Less", position, nodes.int64(0)))
        self.inside = nodes.add("And", not_before, nodes.add("Less", position, resized))
        index, fraction = self._places(nodes, position, size, resized)
        last = nodes.add("Sub", size, nodes.int64(1))
        if ends_rounded:
            before = nodes.add("Less", index, nodes.int64(0))
            beyond = nodes.add("Not", nodes.add("Less", index, last))
            outside = nodes.add("Or", before, beyond)
            fraction = nodes.add("Where", outside, nodes.constant(0, np.float32), fraction)
            index = self._clipped(nodes, index, last)
        following = nodes.add("Add", index, nodes.int64(1))
        self.indices = tuple(
            nodes.add("Add", self._clipped(nodes, each, last), start) for each in (index, following)
        )
        one = nodes.constant(1, np.float32)
        self.weights = tuple(
            nodes.cast(
                nodes.add("Round", nodes.add("Mul", share, nodes.constant(_ONE, np.float32))),
                TensorProto.INT32,
            )
            for share in (nodes.add("Sub", one, fraction), fraction)
        )

    @staticmethod
    def _places(nodes: _Nodes, position: str, size: str, resized: str) -> tuple[str, str]:
        """Return the first neighbour's index, and how far beyond it an output pixel lies."""
        half = nodes.constant(0.5, np.float64)
        sides = [nodes.cast(side, TensorProto.DOUBLE) for side in (resized, size)]
        scale = nodes.add("Div", nodes.constant(1, np.float64), nodes.add("Div", *sides))
        centre = nodes.add("Add", nodes.cast(position, TensorProto.DOUBLE), half)
        place = nodes.add("Sub", nodes.add("Mul", centre, scale), half)
        place = nodes.cast(place, TensorProto.FLOAT)
        whole = nodes.add("Floor", place)
        return nodes.cast(whole, TensorProto.INT64), nodes.add("Sub", place, whole)

    @staticmethod
    def _clipped(nodes: _Nodes, index: str, last: str) -> str:
        return nodes.add("Min", nodes.add("Max", index, nodes.int64(0)), last)


def _resize(nodes: _Nodes, image: str, rows: _Taps, columns: _Taps) -> str:
    """Return the resized centre, int32 (N, H, W, 3), 0 to 255."""

    def column_of(values: str) -> str:  # (count,) -> (count, 1): beside the channels
        return nodes.add("Unsqueeze", values, nodes.constant([1], np.int64))

    def row_of(values: str) -> str:
        return nodes.add("Unsqueeze", values, nodes.constant([1, 2], np.int64))

    def shifted(value: str, bits: int) -> str:  # no value is negative
        return nodes.add("Div", value, nodes.constant(1 << bits, np.int32))

    parts = []
    for row, row_weight in zip(rows.indices, rows.weights):
        line = nodes.add("Gather", image, row, axis=1)
        products = []
        for column, weight in zip(columns.indices, columns.weights):
            pixels = nodes.cast(nodes.add("Gather", line, column, axis=2), TensorProto.INT32)
            products.append(nodes.add("Mul", pixels, column_of(weight)))
        total = shifted(nodes.add("Add", *products), 4)
        parts.append(shifted(nodes.add("Mul", total, row_of(row_weight)), 16))
    total = nodes.add("Add", nodes.add("Add", *parts), nodes.constant(2, np.int32))
    pixels = shifted(total, 2)
    inside = nodes.add("And", row_of(rows.inside), column_of(columns.inside))
    return nodes.add("Where", inside, pixels, nodes.constant(0, np.int32))


def _normalise(nodes: _Nodes, pixels: str, preprocessing: Preprocessing, prepared: str) -> None:
    if preprocessing.channels == 1:
        weighted = nodes.add("Mul", pixels, nodes.constant(_GREY, np.int32))
        axes = nodes.constant([3], np.int64)
        total = nodes.add("ReduceSum", weighted, axes, keepdims=1)
        rounded = nodes.add("Add", total, nodes.constant(1 << 14, np.int32))
        pixels = nodes.add("Div", rounded, nodes.constant(1 << 15, np.int32))
    floats = nodes.cast(nodes.add("Transpose", pixels, perm=[0, 3, 1, 2]), TensorProto.FLOAT)
    shape = (1, preprocessing.channels, 1, 1)
    mean, std = (
        nodes.constant(np.resize(np.array(values, np.float32), preprocessing.channels), np.float32)
        for values in (preprocessing.mean, preprocessing.std)
    )
    mean, std = (
        nodes.add("Reshape", each, nodes.constant(shape, np.int64)) for each in (mean, std)
    )
    centred = nodes.add("Sub", floats, mean)
    nodes.add("Div", centred, std, output=prepared)
