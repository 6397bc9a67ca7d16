"""Primitives that move numbers, and compute none."""

from __future__ import annotations

from typing import Any

import numpy as np

from mindcv_ghost.export.graph import Dimension, Repeated, Varying
from mindcv_ghost.export.primitives.table import translates
from mindcv_ghost.export.translation import Names, Step

_END = np.iinfo(np.int64).max


@translates("Reshape", "Flatten", "FlattenExt", "View", "ExpandDims", "ReshapeView")
def _reshape(step: Step) -> Names:
    """All that keep the order of the numbers; the result's shape is known."""
    return step.reshape(step.tensor(0), step.result.shape, step.shape(0))


@translates("Squeeze")
def _squeeze(step: Step) -> Names:
    return step.reshape(step.tensor(0), step.result.shape, step.shape(0))


@translates("Transpose", "TransposeView")
def _transpose(step: Step) -> Names:
    rank = len(step.shape(0))
    return step.emit("Transpose", step.tensor(0), perm=[axis % rank for axis in step.numbers(1)])


@translates("TransposeExt", "TransposeExtView", "SwapAxes")
def _swap_axes(step: Step) -> Names:
    axes = list(range(len(step.shape(0))))
    a, b = step.argument(1), step.argument(2)
    axes[a], axes[b] = axes[b], axes[a]
    return step.emit("Transpose", step.tensor(0), perm=axes)


@translates("Concat")
def _concat(step: Step) -> Names:
    axis = step.argument(1, step.attributes.get("axis"))
    return step.emit("Concat", *_parts(step), axis=axis)


@translates("Stack", "StackExt")
def _stack(step: Step) -> Names:
    rank = len(step.result.shape)
    axis = step.argument(1, step.attributes.get("axis", 0)) % rank
    parts = [step.emit("Unsqueeze", part, np.array([axis])) for part in _parts(step)]
    return step.emit("Concat", *parts, axis=axis)


def _parts(step: Step) -> list[str]:
    """The tensors of the tuple that is the first argument."""
    parts = step.argument(0)
    return [step.tensor_of(part) for part in parts]


@translates("Split", "SplitWithSize", "SplitTensor")
def _split(step: Step) -> Names:
    """Arguments of ``Split``: x, axis, number of parts; of the others: x, size or sizes, axis."""
    place = 1 if step.call.primitive == "Split" else 2
    axis = step.argument(place, step.attributes.get("axis", 0)) % len(step.shape(0))
    sizes = [result.shape[axis] for result in step.call.results]
    x, parts = step.tensor(0), len(sizes)
    return step.emit_several(parts, "Split", x, step.vector(sizes), axis=axis)


@translates("Unstack", "UnstackExt", "Unbind")
def _unstack(step: Step) -> Names:
    """One slice after another along an axis, which is dropped."""
    axis = step.attributes.get("axis", step.argument(1, 0))
    x = step.tensor(0)
    return [
        step.emit("Gather", x, np.array(i, np.int64), axis=axis)
        for i in range(len(step.call.results))
    ]


@translates("BroadcastTo", "Tile", "Expand", "ExpandAs", "BroadcastToView")
def _broadcast(step: Step) -> Names:
    """What is only repeated along axes of length 1 is expanded."""
    source, target = step.shape(0), step.result.shape
    source = (1,) * (len(target) - len(source)) + tuple(source)
    if all(a in (1, b) for a, b in zip(source, target)):
        return step.emit("Expand", step.tensor(0), step.vector(target))
    if step.call.primitive != "Tile":
        raise step.untranslatable(f"{source} can't be expanded to {target}")
    repeats = step.numbers(1)
    x = step.tensor(0)
    if len(repeats) > len(step.shape(0)):
        x = step.reshape(x, source)
    return step.emit("Tile", x, step.vector((1,) * (len(source) - len(repeats)) + repeats))


@translates("StridedSlice")
def _strided_slice(step: Step) -> Names:
    """Arguments: x, begin, end, strides, and five masks, as of numpy's indexing.

    The masks' bits: begin and end from the edge; an ellipsis; a new axis; an axis that is dropped.
    """
    x = step.argument(0)
    if isinstance(x, Repeated) and x.base.size == 1:
        return _filled(step, x.base.reshape(()))
    begin, end, strides = (list(step.numbers(i)) for i in (1, 2, 3))
    masks = [step.argument(i, 0) or 0 for i in (4, 5, 6, 7, 8)]
    slices, drop, new = _slices(step, begin, end, strides, masks)
    x = _slice(step, step.tensor(0), slices)
    ((axis, index),) = drop.items() if len(drop) == 1 else ((0, None),)
    if index is not None and not new and step.shape(0)[axis] != 1:
        return step.emit("Gather", x, np.array(index, np.int64), axis=axis)
    shape = step.shape(0)
    cuts = [(a, i, i + 1 if i != -1 else _END, 1) for a, i in drop.items() if shape[a] != 1]
    x = _slice(step, x, cuts)
    return step.reshape(x, step.result.shape) if drop or new else x


def _slices(
    step: Step, begin: list[Any], end: list[Any], strides: list[Any], masks: list[int]
) -> tuple[list[tuple[int, Any, Any, int]], dict[int, int], bool]:
    """The (axis, begin, end, stride) that cut something, the axes that are dropped, new axes."""
    begin_mask, end_mask, ellipsis_mask, new_mask, drop_mask = masks
    shape, slices, drop, new = step.shape(0), [], {}, False
    axis = 0
    for place in range(len(begin)):
        bit = 1 << place
        if ellipsis_mask & bit:
            after = len(begin) - place - 1
            later_new = bin(new_mask >> (place + 1)).count("1")
            axis = len(shape) - (after - later_new)
        elif new_mask & bit:
            new = True
        elif drop_mask & bit:
            if isinstance(begin[place], Varying):
                raise step.untranslatable("its index depends on the size of the input")
            drop[axis] = begin[place]
            axis += 1
        else:
            backwards = strides[place] < 0
            first = (-1 if backwards else 0) if begin_mask & bit else begin[place]
            last = (-_END if backwards else _END) if end_mask & bit else end[place]
            if not backwards and _reaches(last, shape[axis]):
                last = _END
            if (first, last, strides[place]) != (0, _END, 1):
                slices.append((axis, first, last, strides[place]))
            axis += 1
    return slices, drop, new


def _reaches(last: Dimension, size: Dimension) -> bool:
    """Whether a slice reaches the end of its axis for every size of the input."""
    if last == size:
        return True
    return isinstance(last, int) and isinstance(size, int) and last >= size


def _slice(step: Step, x: str, slices: list[tuple[int, Any, Any, int]]) -> str:
    if not slices:
        return x
    axes, begin, end, strides = zip(*slices)
    vectors = step.vector(begin), step.vector(end), step.vector(axes), step.vector(strides)
    return step.emit("Slice", x, *vectors)


@translates("SliceExt", "Narrow")
def _slice_along(step: Step) -> Names:
    """Arguments: x, axis, begin, end, stride; ``Narrow``: x, axis, begin, length."""
    axis, begin = step.argument(1), step.argument(2)
    if step.call.primitive == "Narrow":
        end, stride = begin + step.argument(3), 1
    else:
        end, stride = step.argument(3), step.argument(4, 1)
    return _slice(step, step.tensor(0), [(axis, begin, end, stride)])


@translates("Pad")
def _pad(step: Step) -> Names:
    pairs = step.attributes["paddings"]
    return _pad_constant(step, pairs, 0)


@translates("PadV3", "ConstantPadND")
def _pad_v3(step: Step) -> Names:
    """Arguments: x, paddings from the last axis on, value."""
    mode = step.attributes.get("mode", "constant")
    numbers = step.numbers(1)
    if not step.attributes.get("paddings_contiguous", True):
        raise step.untranslatable("its paddings aren't in pairs")
    pairs = [(a, b) for a, b in zip(numbers[::2], numbers[1::2])][::-1]
    pairs = [(0, 0)] * (len(step.shape(0)) - len(pairs)) + pairs
    if mode == "constant":
        value = step.argument(2)
        return _pad_constant(step, pairs, 0 if value is None else np.asarray(value).item())
    modes = {"reflect": "reflect", "edge": "edge", "circular": "wrap"}
    begin, end = zip(*pairs)
    return step.emit("Pad", step.tensor(0), step.vector([*begin, *end]), mode=modes[mode])


def _pad_constant(step: Step, pairs: Any, value: float) -> str:
    begin, end = zip(*pairs)
    fill = np.array(value, step.result.dtype)
    return step.emit("Pad", step.tensor(0), step.vector([*begin, *end]), fill)


@translates("MirrorPad")
def _mirror_pad(step: Step) -> Names:
    """Arguments: x, pairs of paddings for each axis."""
    if step.attributes["mode"] != "REFLECT":
        raise step.untranslatable("it repeats the edge, too")
    begin, end = zip(*np.asarray(step.argument(1)).tolist())
    return step.emit("Pad", step.tensor(0), step.vector([*begin, *end]), mode="reflect")


@translates("Roll")
def _roll(step: Step) -> Names:
    """Numbers that leave an axis at its end come back at its beginning."""
    shifts, axes = step.attributes.get("shift"), step.attributes.get("axis")
    if shifts is None:
        shifts, axes = step.numbers(1), step.numbers(2)
    shifts = shifts if isinstance(shifts, tuple) else (shifts,)
    axes = axes if isinstance(axes, tuple) else (axes,)
    x = step.tensor(0)
    for shift, axis in zip(shifts, axes):
        tail = _slice(step, x, [(axis, -shift, _END, 1)])
        head = _slice(step, x, [(axis, 0, -shift, 1)])
        x = step.emit("Concat", tail, head, axis=axis)
    return x


@translates("ExtractImagePatches")
def _extract_image_patches(step: Step) -> Names:
    """Arguments: x, kernel, strides, rates, padding (2: none). What ``nn.Unfold`` calls.

    The channels of the result are ordered by row of the window, column, and channel of x
    (``ExtractImagePatches`` in MindSpore's extract_image_patches_impl.cu).
    """
    kernel, strides, rates = (step.numbers(i)[-2:] for i in (1, 2, 3))
    result: list[Any] = list(step.result.shape[2:])
    if step.argument(4) != 2 or any(isinstance(n, Varying) for n in result):
        raise step.untranslatable("it pads, or depends on the input's size")
    rows, columns = (
        (np.arange(n) * stride)[:, None] + np.arange(k) * rate
        for n, stride, k, rate in zip(result, strides, kernel, rates)
    )
    x = step.emit("Gather", step.tensor(0), rows, axis=2)
    x = step.emit("Gather", x, columns, axis=4)
    x = step.emit("Transpose", x, perm=[0, 3, 5, 1, 2, 4])
    return step.reshape(x, step.result.shape)


@translates("Gather")
def _gather(step: Step) -> Names:
    return step.emit("Gather", step.tensor(0), step.tensor(1, np.int64), axis=step.argument(2))


@translates("GatherD")
def _gather_elements(step: Step) -> Names:
    axis = step.argument(1)
    return step.emit("GatherElements", step.tensor(0), step.tensor(2, np.int64), axis=axis)


@translates("ZerosLike", "ZerosLikeExt")
def _zeros_like(step: Step) -> Names:
    return _filled(step, 0)


@translates("OnesLike", "OnesLikeExt")
def _ones_like(step: Step) -> Names:
    return _filled(step, 1)


@translates("Zeros")
def _zeros(step: Step) -> Names:
    return _filled(step, 0)


@translates("Ones")
def _ones(step: Step) -> Names:
    return _filled(step, 1)


def _filled(step: Step, value: Any) -> str:
    fill = step.constant(np.array(value, step.result.dtype))
    return step.emit("Expand", fill, step.vector(step.result.shape))
