"""Cells on MindSpore's operators and on native ones: results of both, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindcv_ghost.kernels.install import Report, install

from ..helpers.randomised import randomise

__all__ = ["Case", "Cases", "assert_close", "compute_both"]


class Cases(nn.Cell):
    """Cells without inputs, in one graph; a weighted sum of their outputs, and the outputs.

    Each has its layer as ``layer``, its input as a parameter and the weights of the sum as
    ``weight``, so that all gradients are parameters'. ``is_native`` tells it what it runs on.
    """

    def __init__(self, cases: Sequence[nn.Cell]) -> None:
        super().__init__()
        self.cases = nn.CellList(cases)

    def construct(self):
        total, outputs = 0, ()
        for case in self.cases:
            y = case()
            total = total + (y * case.weight).sum()
            outputs += (y,)
        return total, outputs


class Case(nn.Cell):
    """A layer with what goes into it as a parameter; see :class:`Cases`.

    Args:
        index: seed of the input and of the weights of the sum.
        make: makes the layer.
        size: of its input.
    """

    def __init__(self, index: int, make: Callable[[], nn.Cell], size: tuple[int, ...]) -> None:
        super().__init__()
        self.layer = make()
        self.is_native = False
        random = np.random.default_rng(index)
        self.x = Parameter(Tensor(random.normal(size=size).astype(np.float32)))
        shape = self.layer(self.x).shape
        self.weight = Tensor(random.normal(size=shape).astype(np.float32))

    def construct(self):
        return self.layer(self.x)


def compute_both(make: Callable[[], Cases], library) -> tuple[dict, dict, Report, bool]:
    """Train a step and evaluate, on MindSpore's operators and on native ones.

    Returns:
        The results of either (see :func:`_run`), the report of the exchange, and whether it left
        all parameters the same objects of the same names in the same order.
    """
    before = ms.get_context("mode")
    results = []
    for native in (False, True):
        ms.set_context(mode=ms.PYNATIVE_MODE)
        cases = make()
        for case in cases.cases:
            randomise(case.layer)
        ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})
        if native:
            parameters = [(p.name, id(p)) for p in cases.get_parameters()]
            report = install(cases, library)
            for case in cases.cases:
                case.is_native = True
            same = parameters == [(p.name, id(p)) for p in cases.get_parameters()]
        results.append(_run(cases))
    ms.set_context(mode=before)
    return results[0], results[1], report, same


def _run(cases: Cases) -> dict:
    """Outputs, gradients and running statistics after a step, and the outputs of evaluation."""
    cases.set_train(True)
    parameters = cases.trainable_params()
    (_, outputs), gradients = ops.value_and_grad(cases, None, parameters, has_aux=True)()
    running = [p for p in cases.get_parameters() if "moving" in p.name]
    result = {
        "outputs": [y.asnumpy() for y in outputs],
        "gradients": {p.name: d.asnumpy() for p, d in zip(parameters, gradients)},
        "running": {p.name: p.asnumpy().copy() for p in running},
    }
    cases.set_train(False)
    result["evaluation"] = [y.asnumpy() for y in cases()[1]]
    return result


def assert_close(got: np.ndarray, expected: np.ndarray, least_scale: float = 0.0) -> None:
    """Allow an error of 1e-5 of the greatest value, or of ``least_scale`` if that is larger."""
    assert got.shape == expected.shape
    scale = max(np.abs(expected).max(), least_scale)
    assert np.abs(got - expected).max() <= 1e-5 * scale


def assert_same_layer(stock: dict, native: dict, index: int, least: float) -> dict[str, list[str]]:
    """Compare all that a case has computed.

    Args:
        stock: results of :func:`compute_both`.
        native: likewise.
        index: of the case.
        least: scale of a parameter's error at least, of the case's largest value.

    Returns:
        The names that were compared of the gradients, and of the running statistics.
    """
    found = {}
    for what in ("outputs", "evaluation"):
        assert_close(native[what][index], stock[what][index])
    for what in ("gradients", "running"):
        names = [name for name in stock[what] if name.startswith(f"cases.{index}.")]
        largest = max([np.abs(stock[what][name]).max() for name in names], default=0)
        for name in names:
            assert_close(native[what][name], stock[what][name], least * largest)
        found[what] = names
    return found
