"""Find the convolutions of a network that a Ghost module can replace, and what follows each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from mindcv.models.layers.activation import Swish
from mindspore import Tensor, nn

from mindcv_ghost.analysis.hooks import evaluate_with_hooks
from mindcv_ghost.layers.ghost_module import GhostModule
from mindcv_ghost.layers.rep_conv import RepConv

__all__ = ["ConvolutionSite", "find_convolutions"]

# Element-wise activations. Sigmoid isn't among them: it is more often a gate than an activation.
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SeLU, nn.GELU, nn.FastGelu),
    *(nn.SiLU, nn.HSwish, nn.Mish, Swish),
)


@dataclass(frozen=True)
class ConvolutionSite:
    """A convolution and the cells that follow it when the network runs.

    Args:
        name: path of the convolution in the network.
        conv: the convolution.
        norm: the BN after it, if it is the only reader of the convolution's output and runs once.
        norm_name: path of the BN.
        act: the activation that reads the BN's output (without BN, the convolution's output).
        kept: why no Ghost module can replace the convolution; empty if one can.
        first: whether it runs before all other convolutions, that is, reads the image.
    """

    name: str
    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None = None
    norm_name: str = ""
    act: nn.Cell | None = None
    kept: str = ""
    first: bool = False


def find_convolutions(network: nn.Cell, images: Tensor) -> list[ConvolutionSite]:
    """Run a network eagerly and describe its convolutions in the order of their first run.

    Convolutions that don't run in evaluation mode come last.

    Args:
        network: takes one tensor; its weights, statistics, mode and flags stay the same.
        images: of shape (N, C, H, W).
    """
    trace = _Trace(network)
    trace.run(images)
    sites = [_describe(name, cell, trace) for name, cell in trace.convolutions()]
    return _without_shared_outputs(trace, images, sites)


class _Trace:
    """Records which cells run, how often, and which cells read which outputs.

    Tensors are told apart by ``id``. All of them are kept alive, so that no id is used twice.
    """

    def __init__(self, network: nn.Cell) -> None:
        self.network = network
        self.cells = dict(_cells_to_record(network))
        self.names = {id(cell): name for name, cell in self.cells.items()}
        self.owners: dict[int, list[str]] = {}  # id of a parameter -> cells that have it
        for name, cell in self.cells.items():
            for parameter in cell.get_parameters():
                self.owners.setdefault(id(parameter), []).append(name)
        self.runs: Counter[str] = Counter()
        self.order: list[str] = []
        self.outputs: dict[str, Tensor] = {}
        self._readers: dict[int, list[nn.Cell]] = {}
        self._held: list[Any] = []

    def run(self, images: Tensor) -> None:
        with evaluate_with_hooks(self.network, self.cells, self._record):
            self.network(images)

    def _record(self, name: str, cell: nn.Cell, inputs: tuple[Any, ...], output: Any) -> None:
        self._held += [inputs, output]
        self.runs[name] += 1
        if self.runs[name] == 1:
            self.order.append(name)
        self.outputs[name] = output
        for tensor in inputs:
            self._readers.setdefault(id(tensor), []).append(cell)

    def readers(self, name: str) -> list[nn.Cell]:
        """List the readers of a cell's output; a cell that reads it twice is listed twice."""
        return self._readers.get(id(self.outputs[name]), [])

    def convolutions(self) -> list[tuple[str, nn.Conv2d]]:
        ran = [(name, self.cells[name]) for name in self.order]
        idle = [(name, cell) for name, cell in self.cells.items() if name not in self.runs]
        return [(name, cell) for name, cell in ran + idle if isinstance(cell, nn.Conv2d)]


def _cells_to_record(network: nn.Cell) -> Iterator[tuple[str, nn.Cell]]:
    """Yield the cells without children, and activations as a whole, with their paths."""
    seen: set[int] = set()

    def below(cell: nn.Cell, path: str) -> Iterator[tuple[str, nn.Cell]]:
        if id(cell) in seen:
            return
        seen.add(id(cell))
        if isinstance(cell, _ACTIVATIONS) or not cell.name_cells():
            yield path, cell
            return
        for name, child in cell.name_cells().items():
            yield from below(child, f"{path}.{name}".lstrip("."))

    yield from below(network, "")


def _describe(name: str, conv: nn.Conv2d, trace: _Trace) -> ConvolutionSite:
    first = next((n for n in trace.order if isinstance(trace.cells[n], nn.Conv2d)), "") == name
    kept = _reason_to_keep(name, conv, trace)
    if kept:
        return ConvolutionSite(name, conv, kept=kept, first=first)
    norm, norm_name, last = None, "", name
    readers = trace.readers(name)
    if len(readers) == 1 and type(readers[0]) is nn.BatchNorm2d:
        follower = trace.names[id(readers[0])]
        if trace.runs[follower] == 1 and readers[0].use_batch_statistics is None:
            norm, norm_name, last = readers[0], follower, follower
    readers = trace.readers(last)
    act = readers[0] if readers and all(map(_is_activation, readers)) else None
    return ConvolutionSite(name, conv, norm, norm_name, act, first=first)


def _is_activation(cell: nn.Cell) -> bool:
    if next(iter(cell.get_parameters()), None) is not None:
        return False
    return isinstance(cell, _ACTIVATIONS)


def _reason_to_keep(name: str, conv: nn.Conv2d, trace: _Trace) -> str:
    """Tell why a convolution can't be replaced, whatever the ratio; empty if it can."""
    if type(conv) is not nn.Conv2d:
        return f"a {type(conv).__name__}, which is more than a convolution"
    if conv.group == conv.in_channels and conv.group > 1:
        return "depthwise: cheap already"
    if conv.group > 1:
        return f"in {conv.group} groups"
    if conv.data_format != "NCHW":
        return f"data format {conv.data_format}"
    if name not in trace.runs:
        return "not run in evaluation"
    if trace.runs[name] > 1:
        return f"shared: run {trace.runs[name]} times"
    if any(_is_ghost(parent) for parent in _parents(trace.network, name)):
        return "part of a Ghost module"
    if any(isinstance(parent, RepConv) for parent in _parents(trace.network, name)):
        return "one of parallel branches, which are merged after training"
    sharing = [owner for owner in trace.owners[id(conv.weight)] if owner != name]
    if sharing:
        return f"shares its weight with {', '.join(sharing)}"
    if trace.outputs[name].shape[2:] == (1, 1):
        # Squeeze-and-excitation or a classifier: a cheap kernel would use one of its weights only.
        return "maps of one position"
    return ""


def _is_ghost(cell: nn.Cell) -> bool:
    """Whether a cell is a Ghost module, of this package (V3's and RepGhost's too) or of MindCV."""
    if {"primary", "cheap"} <= set(cell.name_cells()):  # with ratio 1 there is no cheap branch
        return True
    return type(cell).__name__ == "GhostModule" and not isinstance(cell, GhostModule)


def _parents(network: nn.Cell, name: str) -> list[nn.Cell]:
    cells, cell = [network], network
    for part in name.split(".")[:-1]:
        cell = cell.name_cells()[part]
        cells.append(cell)
    return cells


def _without_shared_outputs(
    trace: _Trace, images: Tensor, sites: Sequence[ConvolutionSite]
) -> list[ConvolutionSite]:
    """Remove the BN from sites whose convolution has another reader beside the BN.

    Hooks see cells, not operators: ``self.bn(y) + y`` looks like ``self.bn(y)``. So the network
    runs again with NaN as the convolutions' outputs and with the first run's outputs of their BNs.
    A NaN in the inputs of any other cell, or in the network's output, shows another reader.
    """

    def leaks(some: list[ConvolutionSite]) -> bool:
        replaced_by_nan = {site.name for site in some}
        norms = {site.norm_name for site in some}
        seen = False

        def replace_output(name: str, _cell: nn.Cell, inputs: Any, output: Any) -> Tensor | None:
            nonlocal seen
            if name in norms:
                return trace.outputs[name]
            seen = seen or _holds_nan(inputs)
            if name in replaced_by_nan:
                return Tensor(np.full(output.shape, np.nan, np.float32))
            return None

        with evaluate_with_hooks(trace.network, trace.cells, replace_output):
            output = trace.network(images)
        return seen or _holds_nan(output)

    def leaking(some: list[ConvolutionSite]) -> list[str]:
        if not some or not leaks(some):
            return []
        if len(some) == 1:
            return [some[0].name]
        middle = len(some) // 2
        return leaking(some[:middle]) + leaking(some[middle:])

    shared = set(leaking([site for site in sites if site.norm]))
    return [
        replace(site, norm=None, norm_name="", act=None) if site.name in shared else site
        for site in sites
    ]


def _holds_nan(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(map(_holds_nan, value))
    return isinstance(value, Tensor) and bool(np.isnan(value.asnumpy()).any())
