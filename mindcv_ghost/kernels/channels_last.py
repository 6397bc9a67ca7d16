"""The program of a network with few channels: GhostNet, GhostNetV2, GhostNetV3 and RepGhostNet.

In evaluation such a network is one operator, ``ghost_channels_last``. It receives the images, all
parameters, and a list of numbers that says what to compute with them; ``write_program`` makes it.
``cpp/channels_last_program.h`` reads it; ``cpp/channels_last.h`` says why the maps are channels
last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mindcv.models import ghostnet as mindcv_ghostnet
from mindcv.models.layers.pooling import GlobalAvgPooling
from mindcv.models.layers.squeeze_excite import SqueezeExcite as MindCVSqueezeExcite
from mindspore import Parameter, nn
from mindspore import dtype as mstype

from mindcv_ghost.kernels.convolution import is_padded_by_half
from mindcv_ghost.kernels.program import NotCovered
from mindcv_ghost.layers import (
    ConvNormAct,
    DFCAttention,
    GhostModule,
    GlobalAvgPool,
    RepConv,
    SqueezeExcite,
)
from mindcv_ghost.layers.accelerated import ordinary_class
from mindcv_ghost.models.ghostnet_v2 import AttentionGhostModule, GhostV2Bottleneck
from mindcv_ghost.models.ghostnet_v3 import GhostV3Bottleneck, GhostV3Module
from mindcv_ghost.models.repghost import RepGhostBottleneck, RepGhostModule

__all__ = ["Program", "write_program"]

# As ``Kind`` in cpp/channels_last_program.h and ``Gate`` in cpp/channels_last_means.h.
_STEM, _GHOST, _POINTWISE, _DEPTHWISE, _MEANS, _LINEAR, _EXCITE, _HALVE, _ATTEND = range(9)
_STRIDED_GHOST = 9
_NO_GATE, _RELU, _HARD_SIGMOID = range(3)
# Numbers of maps. The input and the output of blocks are the first two in turn.
_INPUT, _OUTPUT, _EXPANDED, _STRIDED, _SHORTCUT, _HALF, _MEAN, _HIDDEN, _FACTORS = range(9)
_MAPS = 9
_NONE = -1

_BLOCKS = (
    mindcv_ghostnet.GhostBottleneck,
    GhostV2Bottleneck,
    GhostV3Bottleneck,
    RepGhostBottleneck,
)
# A convolution (None: the identity), and the BN after it or None.
Branch = tuple[Any, Any]


class Program:
    """What the operator needs besides the images.

    Attributes:
        numbers: the program.
        parameters: of the network, as the program numbers them.
        classes: outputs for each image.
    """

    def __init__(self) -> None:
        self.numbers: list[float] = [_MAPS]
        self.parameters: list[Parameter] = []
        self.classes = 0

    def add(self, *numbers: float) -> None:
        """Append numbers."""
        self.numbers += numbers

    def parameter(self, parameter: Parameter | None) -> int:
        """Number a parameter; -1 for None."""
        if parameter is None:
            return _NONE
        _want(parameter.dtype == mstype.float32, parameter)
        self.parameters.append(parameter)
        return len(self.parameters) - 1

    def filter(self, branches: Sequence[Branch]) -> None:
        """Append parallel branches, which are added."""
        sizes = [(1, 1) if conv is None else conv.kernel_size for conv, _ in branches]
        self.add(len(branches), *(max(sides) for sides in zip(*sizes)))
        for (conv, norm), size in zip(branches, sizes):
            self.add(self.parameter(None if conv is None else conv.weight), *size)
            self.add(self.parameter(conv.bias if conv is not None and conv.has_bias else None))
            if norm is None:
                self.add(_NONE, 0.0)
                continue
            self.add(self.parameter(norm.gamma))
            for parameter in (norm.beta, norm.moving_mean, norm.moving_variance):
                self.parameter(parameter)
            self.add(norm.eps)

    def linear(self, layer: nn.Cell, source: int, target: int | None, gate: int) -> None:
        """Append an ``nn.Dense``, or a 1x1 convolution of maps of one position.

        Args:
            layer: the cell.
            source: map of one position.
            target: map; None for the network's output.
            gate: what follows.
        """
        out = layer.weight.shape[0]
        self.add(_LINEAR, source, out, gate, *((1,) if target is None else (0, target)))
        self.add(self.parameter(layer.weight))
        self.add(self.parameter(layer.bias if layer.has_bias else None))
        if target is None:
            self.classes = out


def write_program(network: nn.Cell) -> Program:
    """Write the program that computes a network in evaluation.

    Args:
        network: of this package's ``GhostNetFrame``, or MindCV's ``GhostNet``; its cells may be
            native. Hooks on cells and half precision aren't looked for.

    Raises:
        NotCovered: if a layer isn't as its class makes it.
    """
    program = Program()
    *stages, last = network.blocks.cells()
    blocks = [block for stage in stages for block in stage.cells()]
    _want(bool(blocks), network)
    _add_stem(program, network, _module(blocks[0].ghost2))
    maps = (_INPUT, _OUTPUT)
    for block in blocks:
        _want(ordinary_class(block) in _BLOCKS, block)
        _add_block(program, block, *maps)
        maps = maps[::-1]
    (cell,) = [last] if ordinary_class(last) is mindcv_ghostnet.ConvBnAct else last.cells()
    _add_last_convolution(program, cell, maps[0])
    _add_head(program, network)
    return program


def _want(condition: bool, cell: Any) -> None:
    if not condition:
        raise NotCovered(f"there is no step for this {type(cell).__name__}")


def _is_conv(cell: Any, *, depthwise: bool, strides: Sequence[int] = (1,)) -> bool:
    """Whether a cell is a convolution with odd kernel that is padded by half of it."""
    return (
        ordinary_class(cell) is nn.Conv2d
        and is_padded_by_half(cell)
        and cell.stride[0] in strides
        and cell.group == (cell.in_channels if depthwise else 1)
        and (not depthwise or cell.in_channels == cell.out_channels)
    )


def _is_norm(cell: Any) -> bool:
    return (
        ordinary_class(cell) is nn.BatchNorm2d
        and cell.use_batch_statistics is None
        and cell.format == "NCHW"
    )


def _is_relu(act: nn.Cell | None, owner: nn.Cell) -> bool:
    """Whether an activation is a ReLU, or none: None or an empty sequence."""
    if type(act) is nn.ReLU:
        return True
    _want(act is None or (type(act) is nn.SequentialCell and len(act) == 0), owner)
    return False


def _branches(cell: nn.Cell) -> tuple[list[Branch], bool]:
    """The branches of a convolution with BN, and whether a ReLU follows."""
    kind = ordinary_class(cell)
    if kind is ConvNormAct:
        return [(cell.conv, cell.bn)], _is_relu(cell.act, cell)
    if kind is RepConv:
        if cell.deployed:
            return [(cell.conv, None)], _is_relu(cell.act, cell)
        parts = [*cell.branches, *([] if cell.scale is None else [cell.scale])]
        _want(all(type(part) is ConvNormAct and part.act is None for part in parts), cell)
        found: list[Branch] = [(part.conv, part.bn) for part in parts]
        if cell.skip is not None:
            found.append((None, cell.skip))
        return found, _is_relu(cell.act, cell)
    if kind is mindcv_ghostnet.ConvBnAct:
        cell = cell.features
    _want(type(cell) is nn.SequentialCell and len(cell) == 3, cell)
    conv, norm, act = cell
    return [(conv, norm)], _is_relu(act, cell)


def _check(branches: Sequence[Branch], owner: nn.Cell, **conv: Any) -> None:
    """Raise NotCovered unless all branches are convolutions of this kind, with BN or a bias."""
    for convolution, norm in branches:
        _want(convolution is None or _is_conv(convolution, **conv), owner)
        _want(norm is None or _is_norm(norm), owner)
        _want(convolution is not None or (norm is not None and conv["depthwise"]), owner)


def _add_stem(program: Program, network: nn.Cell, module: _Module) -> None:
    """Add the stem, whose output may be added to that of the first block's last module."""
    conv = network.conv_stem
    _check([(conv, network.bn1)], network, depthwise=False, strides=(1, 2, 3, 4))
    _want(type(network.act1) is nn.ReLU and conv.kernel_size[0] == conv.kernel_size[1], network)
    first = -(-conv.out_channels // 2) if module.ghosts else conv.out_channels
    program.add(_STEM, first, conv.out_channels - first, conv.stride[0], True, _INPUT)
    program.filter([(conv, network.bn1)])


def _add_last_convolution(program: Program, cell: nn.Cell, source: int) -> None:
    branches, relu = _branches(cell)
    _check(branches, cell, depthwise=False)
    out = branches[0][0].out_channels
    program.add(_POINTWISE, source, out, 0, relu, _EXPANDED, _NONE)
    program.filter(branches)


def _add_head(program: Program, network: nn.Cell) -> None:
    conv, classifier = network.conv_head, network.classifier
    pool = getattr(network, "pool", None) or network.global_pool
    _want(ordinary_class(pool) in (GlobalAvgPool, GlobalAvgPooling), pool)
    _want(_is_conv(conv, depthwise=False) and conv.kernel_size == (1, 1), conv)
    _want(type(network.act2) is nn.ReLU and type(network.flatten) is nn.Flatten, network)
    program.add(_MEANS, _EXPANDED, _MEAN)
    if type(classifier) is nn.Identity:
        program.linear(conv, _MEAN, None, _RELU)
        return
    _want(type(classifier) is nn.Dense and classifier.activation is None, classifier)
    program.linear(conv, _MEAN, _HIDDEN, _RELU)
    program.linear(classifier, _HIDDEN, None, _NO_GATE)


def _add_block(program: Program, block: nn.Cell, source: int, target: int) -> None:
    first, second, strided = _module(block.ghost1), _module(block.ghost2), _strided(block)
    attention = getattr(block.ghost1, "attention", None)
    expanded = _EXPANDED if strided is None else _STRIDED
    if strided is not None and attention is None:
        branches, relu = strided
        first.write(program, _STRIDED_GHOST, source, _stride(branches), relu, expanded)
        program.filter(branches)
    else:
        factors = _NONE
        if attention is not None:
            factors = _FACTORS
            _add_attention(program, attention, first, source)
        first.write(program, _GHOST, source, _EXPANDED, _NONE, factors)
        if strided is not None:
            branches, relu = strided
            program.add(_DEPTHWISE, _EXPANDED, _stride(branches), relu, expanded)
            program.filter(branches)
    if block.se is not None:
        _add_squeeze_excite(program, block.se, expanded)
    residual = source
    if block.shortcut is not None and len(block.shortcut) > 0:
        _add_shortcut(program, block.shortcut, source, target, second)
        residual = target
    second.write(program, _GHOST, expanded, target, residual, _NONE)


def _stride(branches: Sequence[Branch]) -> int:
    strides = {conv.stride[0] for conv, _ in branches if conv is not None}
    if len(strides) != 1:
        raise NotCovered("branches have different strides")
    return strides.pop()


class _Module(NamedTuple):
    """A Ghost or RepGhost module, without its attention.

    Args:
        primary: its 1x1 convolution.
        cheap: its depthwise convolution.
        intrinsic: output channels of each.
        ghosts: maps of ``cheap`` that are concatenated with ``primary``'s; 0: ``cheap``'s alone are
            the output.
        relu: whether a ReLU follows both.
    """

    primary: list[Branch]
    cheap: list[Branch]
    intrinsic: int
    ghosts: int
    relu: bool

    def write(self, program: Program, kind: int, source: int, *rest: float) -> None:
        """Append the module as a step, up to its filters; ``rest`` is what the kind adds."""
        program.add(kind, source, self.intrinsic, self.ghosts, self.relu, *rest)
        program.filter(self.primary)
        program.filter(self.cheap)


def _module(cell: nn.Cell) -> _Module:
    """What a cell of one of the four kinds of modules consists of."""
    kind = ordinary_class(cell)
    if kind is AttentionGhostModule:
        cell = cell.ghost
        kind = ordinary_class(cell)
    if kind is mindcv_ghostnet.GhostModule:
        primary, cheap, channels = cell.primary_conv, cell.cheap_operation, cell.oup
    elif kind is GhostModule:
        _want(cell.cheap is not None and cell.act is None and cell.order is None, cell)
        primary, cheap, channels = cell.primary, cell.cheap, cell.out_channels
    else:
        _want(kind in (GhostV3Module, RepGhostModule), cell)
        primary, cheap, channels = cell.primary, cell.cheap, None
    (first, relu), (second, cheap_relu) = _branches(primary), _branches(cheap)
    _check(first, cell, depthwise=False)
    _check(second, cell, depthwise=True)
    intrinsic = first[0][0].out_channels
    _want(relu == cheap_relu and second[0][0].out_channels == intrinsic, cell)
    if kind is RepGhostModule:
        return _Module(first, second, intrinsic, 0, relu)
    ghosts = intrinsic if channels is None else channels - intrinsic
    _want(0 < ghosts <= intrinsic, cell)
    return _Module(first, second, intrinsic, ghosts, relu)


def _strided(block: nn.Cell) -> tuple[list[Branch], bool] | None:
    """The depthwise convolution between a block's modules, and whether a ReLU follows it."""
    conv = getattr(block, "conv_dw", None)
    if conv is None:
        return None
    norm = getattr(block, "bn_dw", None)
    branches, relu = _branches(conv) if norm is None else ([(conv, norm)], False)
    _check(branches, block, depthwise=True, strides=(1, 2))
    return branches, relu


def _add_shortcut(
    program: Program, shortcut: nn.Cell, source: int, target: int, module: _Module
) -> None:
    """Add a depthwise and a 1x1 convolution, whose output is added to that of a module."""
    _want(type(shortcut) is nn.SequentialCell and len(shortcut) == 4, shortcut)
    depthwise, first, pointwise, second = shortcut
    _check([(depthwise, first)], shortcut, depthwise=True, strides=(1, 2))
    _check([(pointwise, second)], shortcut, depthwise=False)
    program.add(_DEPTHWISE, source, depthwise.stride[0], False, _SHORTCUT)
    program.filter([(depthwise, first)])
    program.add(_POINTWISE, _SHORTCUT, module.intrinsic, module.ghosts, False, target, _NONE)
    program.filter([(pointwise, second)])


def _add_squeeze_excite(program: Program, cell: nn.Cell, maps: int) -> None:
    kind = ordinary_class(cell)
    _want(kind in (SqueezeExcite, MindCVSqueezeExcite), cell)
    gate = nn.HSigmoid if kind is SqueezeExcite else mindcv_ghostnet.HardSigmoid
    pool = GlobalAvgPool if kind is SqueezeExcite else GlobalAvgPooling
    _want(type(cell.gate) is gate and type(cell.act) is nn.ReLU, cell)
    _want(ordinary_class(cell.pool) is pool and getattr(cell, "norm", None) is None, cell)
    for conv in (cell.conv_reduce, cell.conv_expand):
        _want(_is_conv(conv, depthwise=False) and conv.kernel_size == (1, 1), cell)
    program.add(_MEANS, maps, _MEAN)
    program.linear(cell.conv_reduce, _MEAN, _HIDDEN, _RELU)
    expand = cell.conv_expand
    program.add(_EXCITE, _HIDDEN, maps, program.parameter(expand.weight))
    program.add(program.parameter(expand.bias if expand.has_bias else None))


def _add_attention(program: Program, attention: nn.Cell, module: _Module, source: int) -> None:
    """Add what computes the factors of a module's output from its input."""
    pool, fc = attention.pool, attention.fc
    _want(ordinary_class(attention) is DFCAttention and type(pool) is nn.AvgPool2d, attention)
    halves = pool.kernel_size == pool.stride == 2 and pool.pad_mode == "VALID"
    _want(halves and type(fc) is nn.SequentialCell and len(fc) == 6, attention)
    cells = list(fc)
    program.add(_HALVE, source, _HALF)
    program.add(_ATTEND, _HALF, module.intrinsic, module.ghosts, _FACTORS)
    for conv, norm, is_depthwise in zip(cells[::2], cells[1::2], (False, True, True)):
        _check([(conv, norm)], attention, depthwise=is_depthwise)
        program.filter([(conv, norm)])
