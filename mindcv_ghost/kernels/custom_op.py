"""Custom operators: how MindSpore calls a function of the library.

Every function has the same C signature (``cpp/arguments.h``). The first input is usually a
tensor of settings: strides, epsilons, momenta.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from mindspore import Parameter, Tensor, nn, ops
from mindspore import dtype as mstype
from mindspore.ops import signature

from mindcv_ghost.errors import UserError
from mindcv_ghost.kernels.library import Library

__all__ = [
    "EvaluationOperator",
    "make_in_place_operator",
    "custom_operator",
    "read_once",
    "settings_tensor",
]


def custom_operator(
    library: Library | str,
    name: str,
    shapes: Callable[..., Any],
    outputs: int,
    constants: Sequence[int] = (),
) -> ops.Custom:
    """Make an operator that has no side effects.

    Args:
        library: that has the function, or its path.
        name: of the function.
        shapes: maps the shapes of the inputs to the shape of the output, or a tuple of shapes.
        outputs: number of outputs, which all have the first input's type.
        constants: numbers that the shape of the output depends on, beside the shapes of the inputs.
            In PyNative mode MindSpore keeps the output's shape for the next operator of the same
            function, attributes and inputs' shapes.
    """

    def types(first, *_):
        return first if outputs == 1 else (first,) * outputs

    path = library if isinstance(library, str) else library.path
    function = f"{path}:{name}"
    operator = _Custom(function, _inferred(shapes), _float32(types), func_type="aot")
    operator.add_prim_attr("constants", str(tuple(constants)))
    return operator


class _Custom(ops.Custom):
    """An operator that copies of a network share; MindSpore 2.8 can't copy an ``ops.Custom``."""

    def __deepcopy__(self, memo: object) -> _Custom:
        return self


def _inferred(shapes: Callable[..., Any]) -> Callable[..., Any]:
    """Infer an operator's shapes, unless they are open, or its graph is about to be exported.

    MindSpore 2.8 writes a MindIR with this package's operators in it that only this machine can
    load, and fails in its ONNX exporter with "The pointer[value] is null". Nothing in a cell tells
    that it is being exported; the phase of the compilation does, in a frame that calls this.
    """

    def infer(*inputs: Any) -> Any:
        frame: FrameType | None = sys._getframe()
        while frame is not None:
            phase = frame.f_locals.get("phase") if frame.f_code.co_name == "compile" else None
            if str(phase).startswith("export"):
                raise UserError(
                    "an accelerated network can't be exported, because its operators exist on this "
                    "machine only: call mindcv_ghost.decelerate(network) first"
                )
            frame = frame.f_back
        _check_sizes(inputs)
        return shapes(*inputs)

    return infer


def _check_sizes(shapes: Sequence[Sequence[int]]) -> None:
    """Refuse open shapes (a size of -1, -2 for all) and empty tensors, which the C++ can't take."""
    for shape in shapes:
        if any(size < 1 for size in shape):
            what = "a batch without images" if 0 in shape else "images of an open shape"
            raise UserError(
                f"an accelerated network can't compute {what}: a layer received the shape "
                f"{tuple(shape)}. Give it images of a known size, or call "
                "mindcv_ghost.decelerate(network) first"
            )


def _float32(types: Callable[..., Any]) -> Callable[..., Any]:
    """Infer an operator's types, and refuse inputs that its C++ would misread."""

    def infer(*inputs: Any) -> Any:
        others = [kind for kind in map(_element_type, inputs) if kind != mstype.float32]
        if others:
            given = ", ".join(dict.fromkeys(map(str, others)))
            raise UserError(
                f"an accelerated network computes in float32, and a layer received {given}. Cast "
                "its inputs to float32, or call mindcv_ghost.decelerate(network) first"
            )
        return types(*inputs)

    return infer


def _element_type(kind: Any) -> Any:
    return kind.element_type() if isinstance(kind, mstype.TensorType) else kind


def make_in_place_operator(path: str, name: str, read: int, written: int) -> ops.Custom:
    """Make an operator that writes parameters in place.

    It has one output of shape (1,), which the caller makes another tensor depend on: with a second
    output that nobody reads, MindSpore 2.8 reports that it has eliminated side effects.

    Args:
        path: of the library.
        name: of the function.
        read: number of inputs that are only read.
        written: number of parameters that are written; they follow the inputs that are read.
    """

    def shape(*_):
        return [1]

    def kind(first, *_):
        return first

    operator = _Custom(f"{path}:{name}", shape, kind, func_type="aot")
    inputs = [signature.make_sig(f"read{i}") for i in range(read)]
    writes = signature.sig_rw.RW_WRITE
    inputs += [signature.make_sig(f"written{i}", writes) for i in range(written)]
    operator.set_signatures(tuple(inputs))
    operator.add_prim_attr("side_effect_mem", True)
    return operator


def read_once(parameter: Parameter) -> Tensor:
    """Return a parameter's value, to be passed to a cell that has a ``bprop``.

    If the cell received the parameter itself, its forward and its backward pass would each read it.
    Other parameters are written in between, so MindSpore 2.8 would copy it for both.
    """
    return ops.reshape(parameter, parameter.shape)


def settings_tensor(*values: float) -> Tensor:
    """Return an operator's settings, its first input, as float32."""
    return Tensor([float(value) for value in values], mstype.float32)


class EvaluationOperator(nn.Cell):
    """An operator for evaluation only: it has no gradient.

    Args:
        library: that has the function.
        name: of the function.
        settings: its first input.
        shape: maps the shapes of all inputs to the shape of the output.
        constants: as for :func:`custom_operator`.
    """

    def __init__(
        self,
        library: Library,
        name: str,
        settings: Tensor,
        shape: Callable[..., Any],
        constants: Sequence[int] = (),
    ) -> None:
        super().__init__(auto_prefix=False)
        self.settings = settings
        self.forward = custom_operator(library, name, shape, 1, constants)

    def construct(self, *inputs):
        return self.forward(self.settings, *inputs)
