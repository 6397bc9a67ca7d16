"""Preprocessing as a part of the ONNX graph: pictures in, as bytes of any size; logits out.

ONNX's Resize operator isn't used. Validation resizes as OpenCV does, in whole numbers: weights of
11 bits, rows first, and the sums shifted (``inference/resize.py`` has it in NumPy, with the
sources). Interpolation in floats, as Resize does it, rounds other pixels up or down. A Gather of
the neighbours and the same arithmetic give validation's pixels bit for bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mindcv_ghost.errors import ConfigError
from mindcv_ghost.inference.description import Preprocessing

__all__ = ["EMBEDDABLE", "embed_preprocessing", "preprocessing_nodes"]

EMBEDDABLE = ("bilinear", "bicubic", "nearest")
"""Interpolations that the graph can do; in the others a pixel has any number of neighbours."""

_PREFIX = "preprocessing/"
_MAX_ASPECT = 100  # as image_file's MAX_ASPECT: of a longer ribbon only the middle is resized
_ONE = 2048  # a weight of 1
# OpenCV's grey: weights of red, green and blue, of 15 bits.
_GREY = (9798, 19235, 3735)


def embed_preprocessing(model: onnx.ModelProto, preprocessing: Preprocessing) -> onnx.ModelProto:
    """Put the preprocessing in front of a network.

    Args:
        model: has one input, float32 (N, C, H, W); stays as it is.
        preprocessing: resize, crop, mean and deviation.

    Returns:
        A model with one input ``image``, uint8 (N, height, width, 3), RGB, of any height and width,
        and the outputs of ``model``.

    Raises:
        ConfigError: if the interpolation isn't in :data:`EMBEDDABLE`.
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
        ConfigError: if the interpolation isn't in :data:`EMBEDDABLE`.
    """
    by = preprocessing.interpolation
    if by not in EMBEDDABLE:
        raise ConfigError(
            f"the ONNX file can resize by {', '.join(EMBEDDABLE)}, and the recipe's interpolation "
            f"is {by}: leave embed_preprocess out"
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
    rows = _line(nodes, by, high, resized[0], preprocessing.height, top, ends_rounded=False)
    columns = _line(nodes, by, wide, resized[1], preprocessing.width, left, ends_rounded=True)
    pixels = _RESIZE[by](nodes, image, rows, columns)
    inside = nodes.add("And", nodes.along_rows(rows.inside), nodes.along_columns(columns.inside))
    pixels = nodes.add("Where", inside, pixels, nodes.constant(0, np.int32))
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

    def float32(self, value: float) -> str:
        """Add a number; return its name."""
        return self.constant(value, np.float32)

    def cast(self, value: str, to: int) -> str:
        """Convert to another type."""
        return self.add("Cast", value, to=to)

    def shifted(self, value: str, bits: int) -> str:
        """Shift int32 to the right; negative numbers must be 0 or more before."""
        return self.add("Div", value, self.constant(1 << bits, np.int32))

    def along_columns(self, values: str) -> str:
        """(count,) -> (count, 1): beside the channels of (N, H, W, 3)."""
        return self.add("Unsqueeze", values, self.constant([1], np.int64))

    def along_rows(self, values: str) -> str:
        """(count,) -> (count, 1, 1)."""
        return self.add("Unsqueeze", values, self.constant([1, 2], np.int64))


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


class _Line(NamedTuple):
    """Of which input pixels the rows or the columns of the output are made.

    Args:
        resized: pixels of the whole side after resizing.
        position: of the output pixels in it, int64 (count,); outside for a border.
        inside: bool (count,): False for the border of a crop larger than the picture.
        indices: of each neighbour in the picture, int64 (count,).
        weights: of each neighbour, int32 (count,); () for nearest.
    """

    resized: str
    position: str
    inside: str
    indices: tuple[str, ...]
    weights: tuple[str, ...]


def _line(
    nodes: _Nodes, by: str, size: str, resized: str, count: int, start: str, *, ends_rounded: bool
) -> _Line:
    """Find the input pixels of a line.

    Args:
        nodes: gets the nodes.
        by: interpolation.
        size: pixels of the side before resizing.
        resized: pixels of the side after it.
        count: pixels of the centre crop, which alone are computed.
        start: of the side in the picture.
        ends_rounded: whether the outermost pixel has weight 1 beyond the ends, as for columns; rows
            keep both weights, on the same pixel. Bilinear only.
    """
    # Rounded down, because MindSpore makes the larger half of an odd border come first. Div of
    # whole numbers would round towards 0.
    excess = nodes.cast(nodes.add("Sub", resized, nodes.int64(count)), TensorProto.FLOAT)
    offset = nodes.add("Floor", nodes.add("Mul", excess, nodes.float32(0.5)))
    offset = nodes.cast(offset, TensorProto.INT64)
    position = nodes.add("Add", nodes.constant(np.arange(count), np.int64), offset)
    not_before = nodes.add("Not", nodes.add("Less", position, nodes.int64(0)))
    inside = nodes.add("And", not_before, nodes.add("Less", position, resized))
    last = nodes.add("Sub", size, nodes.int64(1))
    indices, shares = _NEIGHBOURS[by](nodes, position, size, resized, last, ends_rounded)
    return _Line(
        resized,
        position,
        inside,
        tuple(nodes.add("Add", _clipped(nodes, index, last), start) for index in indices),
        tuple(
            nodes.cast(
                nodes.add("Round", nodes.add("Mul", share, nodes.float32(_ONE))), TensorProto.INT32
            )
            for share in shares
        ),
    )


def _scale(nodes: _Nodes, size: str, resized: str) -> str:
    sides = [nodes.cast(side, TensorProto.DOUBLE) for side in (resized, size)]
    # Not Div of 1: ONNX Runtime's DivMulFusion would make (1 / a) * b into b / a, which rounds
    # otherwise, and moves whole rows of a nearest neighbour.
    return nodes.add("Reciprocal", nodes.add("Div", *sides))


def _clipped(nodes: _Nodes, index: str, last: str) -> str:
    return nodes.add("Min", nodes.add("Max", index, nodes.int64(0)), last)


def _place(nodes: _Nodes, position: str, size: str, resized: str) -> tuple[str, str]:
    """Return the input pixel before an output pixel's middle, and how far beyond it that is."""
    half = nodes.constant(0.5, np.float64)
    centre = nodes.add("Add", nodes.cast(position, TensorProto.DOUBLE), half)
    place = nodes.add("Sub", nodes.add("Mul", centre, _scale(nodes, size, resized)), half)
    place = nodes.cast(place, TensorProto.FLOAT)
    whole = nodes.add("Floor", place)
    return nodes.cast(whole, TensorProto.INT64), nodes.add("Sub", place, whole)


def _nearest_pixel(
    nodes: _Nodes, position: str, size: str, resized: str, last: str, ends_rounded: bool
) -> tuple[list[str], list[str]]:
    exact = nodes.cast(position, TensorProto.DOUBLE)
    place = nodes.add("Floor", nodes.add("Mul", exact, _scale(nodes, size, resized)))
    return [nodes.cast(place, TensorProto.INT64)], []


def _two_pixels(
    nodes: _Nodes, position: str, size: str, resized: str, last: str, ends_rounded: bool
) -> tuple[list[str], list[str]]:
    index, fraction = _place(nodes, position, size, resized)
    if ends_rounded:
        before = nodes.add("Less", index, nodes.int64(0))
        beyond = nodes.add("Not", nodes.add("Less", index, last))
        outside = nodes.add("Or", before, beyond)
        fraction = nodes.add("Where", outside, nodes.float32(0), fraction)
        index = _clipped(nodes, index, last)
    following = nodes.add("Add", index, nodes.int64(1))
    return [index, following], [nodes.add("Sub", nodes.float32(1), fraction), fraction]


def _four_pixels(
    nodes: _Nodes, position: str, size: str, resized: str, last: str, ends_rounded: bool
) -> tuple[list[str], list[str]]:
    """``interpolateCubic`` of OpenCV, with a = -0.75, in float32 as there."""
    index, x = _place(nodes, position, size, resized)
    a, one = -0.75, nodes.float32(1)
    beyond, before = nodes.add("Add", x, one), nodes.add("Sub", one, x)

    def times(value: str, factor: str, plus: float, sign: str = "Add") -> str:
        return nodes.add(sign, nodes.add("Mul", value, factor), nodes.float32(plus))

    first = times(beyond, nodes.float32(a), 5 * a, "Sub")
    first = times(times(first, beyond, 8 * a), beyond, 4 * a, "Sub")
    inner = []
    for distance in (x, before):
        part = times(distance, nodes.float32(a + 2), a + 3, "Sub")
        inner.append(times(nodes.add("Mul", part, distance), distance, 1))
    rest = one
    for share in (first, *inner):
        rest = nodes.add("Sub", rest, share)
    indices = [nodes.add("Add", index, nodes.int64(k)) for k in (-1, 0, 1, 2)]
    return indices, [first, *inner, rest]


_NEIGHBOURS = {"bilinear": _two_pixels, "bicubic": _four_pixels, "nearest": _nearest_pixel}


def _sums_along_rows(nodes: _Nodes, image: str, rows: _Line, columns: _Line) -> list[str]:
    """Return the weighted sums along each neighbouring row, int32 (N, H, W, 3)."""
    sums = []
    for row in rows.indices:
        line = nodes.add("Gather", image, row, axis=1)
        total = ""
        for column, weight in zip(columns.indices, columns.weights):
            pixels = nodes.cast(nodes.add("Gather", line, column, axis=2), TensorProto.INT32)
            product = nodes.add("Mul", pixels, nodes.along_columns(weight))
            total = nodes.add("Add", total, product) if total else product
        sums.append(total)
    return sums


def _nearest(nodes: _Nodes, image: str, rows: _Line, columns: _Line) -> str:
    line = nodes.add("Gather", image, *rows.indices, axis=1)
    return nodes.cast(nodes.add("Gather", line, *columns.indices, axis=2), TensorProto.INT32)


def _bilinear(nodes: _Nodes, image: str, rows: _Line, columns: _Line) -> str:
    """Return the resized centre, int32 (N, H, W, 3), 0 to 255."""
    parts = [
        nodes.shifted(nodes.add("Mul", nodes.shifted(line, 4), nodes.along_rows(weight)), 16)
        for line, weight in zip(_sums_along_rows(nodes, image, rows, columns), rows.weights)
    ]
    total = nodes.add("Add", nodes.add("Add", *parts), nodes.constant(2, np.int32))
    return nodes.shifted(total, 2)


def _bicubic(nodes: _Nodes, image: str, rows: _Line, columns: _Line) -> str:
    """As :func:`_bilinear`. OpenCV's vector units sum along columns in float32.

    They take eight values at a time; what is left of a row is summed in whole numbers.
    """
    lines = _sums_along_rows(nodes, image, rows, columns)
    weights = [nodes.along_rows(weight) for weight in rows.weights]
    scale, floating, whole = nodes.float32(1 / _ONE**2), "", ""
    for line, weight in reversed(list(zip(lines, weights))):
        factor = nodes.add("Mul", nodes.cast(weight, TensorProto.FLOAT), scale)
        part = nodes.add("Mul", nodes.cast(line, TensorProto.FLOAT), factor)
        exact = nodes.add("Mul", line, weight)
        floating = nodes.add("Add", floating, part) if floating else part
        whole = nodes.add("Add", whole, exact) if whole else exact
    floating = nodes.cast(nodes.add("Round", floating), TensorProto.INT32)
    whole = nodes.add("Add", whole, nodes.constant(1 << 21, np.int32))
    whole = nodes.shifted(nodes.add("Max", whole, nodes.constant(0, np.int32)), 22)
    three, eight = nodes.int64(3), nodes.int64(8)
    at = nodes.add("Mul", nodes.along_columns(columns.position), three)
    at = nodes.add("Add", at, nodes.constant(np.arange(3), np.int64))
    vectors = nodes.add("Div", nodes.add("Mul", columns.resized, three), eight)
    in_vector = nodes.add("Less", at, nodes.add("Mul", vectors, eight))
    value = nodes.add("Where", in_vector, floating, whole)
    value = nodes.add("Max", value, nodes.constant(0, np.int32))
    return nodes.add("Min", value, nodes.constant(255, np.int32))


_RESIZE = {"bilinear": _bilinear, "bicubic": _bicubic, "nearest": _nearest}


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
