"""The program of a network: steps that C++ interprets, to evaluate all of it as one operator.

``cpp/program.h`` reads the steps. Native cells add them (``emit`` in ``native_cell``), and
``evaluation`` makes the operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from mindspore import Parameter, nn

__all__ = ["Activation", "Kind", "Maps", "NotCovered", "Program", "Step"]

NONE = -1
"""Stands for a parameter or a map that a step doesn't have."""


class NotCovered(Exception):
    """A cell computes what no step does, or what only the ordinary way of calling it does."""


class Kind(IntEnum):
    """What a step computes; ``StepKind`` in ``cpp/program.h``."""

    CONVOLUTION = 0
    GHOST = 1
    STEM = 2  # a convolution and max pooling of 3x3 with stride 2
    MEAN = 3


class Activation(IntEnum):
    """What is applied to each value; the same in ``cpp/program.h``."""

    NONE = 0
    RELU = 1


@dataclass(frozen=True)
class Maps:
    """Feature maps that a program computes.

    Args:
        number: of the maps in the program; 0 for the images.
        channels: of the maps.
        reduction: by which height and width are smaller than the images', rounded up; 0 for maps of
            one position.
    """

    number: int
    channels: int
    reduction: int


@dataclass(frozen=True)
class Step:
    """One step, encoded as its fields in this order; ``Step`` in ``cpp/program.h`` reads them.

    Args:
        kind: what it computes.
        input: number of the maps that it reads.
        output: number of the maps that it writes.
        first: channel of ``output`` where its own begin.
        channels: of ``output``. What a Ghost module has more is cropped.
        weight: number of the parameter, as for all that follow.
        bias: of the convolution.
        norm: number of the BN's gamma; beta, mean and variance follow.
        epsilon: of the BN.
        activation: after the BN.
        stride: of the convolution.
        other: number of maps that are added.
        outer: activation after that sum.
        cheap_weight: of a Ghost module's depthwise convolution.
        cheap_norm: of the BN after it.
        cheap_epsilon: of that BN.
    """

    kind: Kind
    input: int
    output: int
    first: int
    channels: int
    weight: int = NONE
    bias: int = NONE
    norm: int = NONE
    epsilon: float = 0.0
    activation: Activation = Activation.NONE
    stride: int = 1
    other: int = NONE
    outer: Activation = Activation.NONE
    cheap_weight: int = NONE
    cheap_norm: int = NONE
    cheap_epsilon: float = 0.0


class Program:
    """Steps in the order in which they are computed, and the parameters that they read."""

    def __init__(self) -> None:
        self.images = Maps(0, 0, 1)  # C++ sees how many channels they have
        self.steps: list[Step] = []
        self.parameters: list[Parameter] = []
        self._numbers: dict[int, int] = {}
        self._maps = 1

    def parameter(self, parameter: Parameter | None) -> int:
        """Return the number of a parameter, which becomes an input of the operator."""
        if parameter is None:
            return NONE
        number = self._numbers.setdefault(id(parameter), len(self.parameters))
        if number == len(self.parameters):
            self.parameters.append(parameter)
        return number

    def norm(self, norm: nn.BatchNorm2d | None) -> int:
        """Return the number of a BN's gamma. The numbers of its other parameters follow it."""
        if norm is None:
            return NONE
        parts = (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
        numbers = [self.parameter(part) for part in parts]
        if numbers != list(range(numbers[0], numbers[0] + 4)):
            raise NotCovered("BNs share some of their parameters")
        return numbers[0]

    def maps(self, channels: int, reduction: int) -> Maps:
        """Return new maps, which one step or, channel after channel, several steps write."""
        made = Maps(self._maps, channels, reduction)
        self._maps += 1
        return made

    def add(self, kind: Kind, x: Maps, y: Maps, first: int = 0, **fields: Any) -> Maps:
        """Add a step that computes maps y, from channel ``first`` on, from maps x.

        Args:
            kind: of the step.
            x: its input.
            y: its output.
            first: channel of y where the step's own begin.
            fields: those of :class:`Step` that this kind has.

        Returns:
            y.
        """
        self.steps.append(Step(kind, x.number, y.number, first, y.channels, **fields))
        return y

    def convolution(
        self,
        x: Maps,
        conv: nn.Conv2d | nn.Dense,
        norm: nn.BatchNorm2d | None = None,
        activation: Activation = Activation.NONE,
        kind: Kind = Kind.CONVOLUTION,
        channels: int = 0,
        **fields: Any,
    ) -> Maps:
        """Add a dense convolution, or a linear layer of maps of one position.

        Args:
            x: its input.
            conv: whose native class supports it.
            norm: the BN after it.
            activation: after the BN.
            kind: of the step, which begins with the convolution.
            channels: that the step computes, if they aren't the convolution's.
            fields: others of :class:`Step`.

        Returns:
            The maps that it computes.
        """
        stride = 1 if isinstance(conv, nn.Dense) else conv.stride[0]
        reduction = x.reduction * stride * (2 if kind is Kind.STEM else 1)
        return self.add(
            kind,
            x,
            self.maps(channels or conv.weight.shape[0], reduction),
            weight=self.parameter(conv.weight),
            bias=self.parameter(conv.bias if conv.has_bias else None),
            norm=self.norm(norm),
            epsilon=norm.eps if norm is not None else 0.0,
            activation=activation,
            stride=stride,
            **fields,
        )
