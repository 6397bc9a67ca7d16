"""Fit the weights of Ghost modules to the convolutions of a trained network.

Han et al. (arXiv 1911.11907, section 3.1) observe that many maps of a trained network are nearly
linear functions of other maps. They train a network built on this from random weights; here a
trained network is converted. Each convolution keeps the filters whose maps predict the other maps
best (``assignment``). The other maps are derived by d x d kernels, fitted by least squares on
calibration images.

The convolutions are fitted in the order in which they run, in one forward pass. Its batch holds
every image twice: the first half goes through the original network, the second half through the
modules fitted so far. At every convolution the second half is fitted to the first. The kept filters
are corrected, too, by ridge regression, because their inputs differ slightly from the trained
network's. So errors don't accumulate over the depth. Channel pruning reconstructs maps in the same
way (He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168,
section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.hooks import evaluate_with_hooks
from mindcv_ghost.analysis.least_squares import (
    fit_kernels,
    pair_residuals,
    sample_positions,
    values_at,
)
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.surgery.assignment import choose_sources
from mindcv_ghost.surgery.bn_statistics import (
    batch_norms,
    channel_statistics,
    normalise,
    per_channel,
)
from mindcv_ghost.surgery.convolutions import ConvolutionSite
from mindcv_ghost.surgery.filter_correction import correct_filters

__all__ = ["BatchNormValues", "GhostFit", "fit_ghost_modules", "load_fit"]

# How many positions a convolution is fitted on: enough for the 49 weights of the largest cheap
# kernel, few enough for the 2048 x 2048 pairs of ResNet-50's last convolutions.
_POSITIONS = 4096
_BN_VALUES = ("gamma", "beta", "moving_mean", "moving_variance")
# Largest number of pixels in the calibration images: 4096 positions at a stride of 32. The stem's
# maps of both halves then take 0.5 GB.
_PIXELS = 2**22


@dataclass(frozen=True)
class BatchNormValues:
    """A BN's parameters and running statistics, each of shape (channels,)."""

    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


@dataclass(frozen=True)
class GhostFit:
    """The weights of a Ghost module that replaces a trained convolution.

    Args:
        intrinsic: indices of the original maps that the primary convolution computes, of shape
            (m,), ascending.
        order: for each original map its index among the module's intrinsic and ghost maps, of
            shape (out,).
        weight: of the primary convolution.
        bias: of the primary convolution, or None.
        norm: of the primary convolution's BN, or None.
        cheap_weight: of the cheap convolution, of shape (ghosts, 1, d, d); zero for ghost maps that
            aren't used.
        cheap_bias: of the cheap convolution, or None.
        cheap_norm: of the cheap convolution's BN, or None.
        residuals: mean squared error of each map, divided by the original map's variance, of shape
            (out,); zero for a constant map that is reproduced exactly.
    """

    intrinsic: np.ndarray
    order: np.ndarray
    weight: np.ndarray
    bias: np.ndarray | None
    norm: BatchNormValues | None
    cheap_weight: np.ndarray
    cheap_bias: np.ndarray | None
    cheap_norm: BatchNormValues | None
    residuals: np.ndarray


def fit_ghost_modules(
    network: nn.Cell,
    sites: Sequence[ConvolutionSite],
    calibration: Sequence[np.ndarray],
    ratio: int,
    cheap_kernel_size: int,
    seed: int = 0,
) -> dict[str, GhostFit]:
    """Fit a Ghost module to each given convolution of a trained network, without changing it.

    Args:
        network: takes one tensor of images.
        sites: the convolutions, each with the BN and the activation that follow it.
        calibration: batches of images of shape (N, C, H, W), prepared as in training; a few hundred
            images are enough. They go through the network in one batch. If they have more than four
            million pixels together, an evenly spaced subset of this size is used.
        ratio: s in the paper.
        cheap_kernel_size: d in the paper, odd.
        seed: for drawing the positions.

    Returns:
        A fit for each convolution, by its path.

    Raises:
        ValueError: if the images differ in size, or a map contains NaN or infinity.
    """
    images = _images(calibration)
    fitting = _Fitting(sites, len(images), ratio, cheap_kernel_size, seed)
    cells = {site.name: site.conv for site in sites}
    cells.update(batch_norms(network))
    with evaluate_with_hooks(network, cells, fitting.hook):
        network(Tensor(np.concatenate((images, images))))
    return fitting.fits


def load_fit(module: GhostModule, fit: GhostFit) -> None:
    """Load a fit into a Ghost module that hasn't run yet.

    Args:
        module: built with ``permuted=True`` and the convolution's sizes.
        fit: of that convolution.
    """
    branches = [(module.primary, fit.weight, fit.bias, fit.norm)]
    if module.cheap is not None:  # None only for a ratio of 1
        branches.append((module.cheap, fit.cheap_weight, fit.cheap_bias, fit.cheap_norm))
    for branch, weight, bias, norm in branches:
        _set(branch.conv.weight, weight)
        if bias is not None:
            _set(branch.conv.bias, bias)
        if norm is not None:
            for name in _BN_VALUES:
                _set(getattr(branch.bn, name), getattr(norm, name))
    _set(module.order, fit.order)


def _set(parameter: Any, values: np.ndarray) -> None:
    parameter.set_data(Tensor(values, parameter.dtype))


def _images(calibration: Sequence[np.ndarray]) -> np.ndarray:
    shapes = {batch.shape[1:] for batch in calibration}
    if len(shapes) != 1:
        raise ValueError(f"calibration images must have the same size, not {sorted(shapes)}")
    images = np.concatenate(list(calibration))
    most = max(1, _PIXELS // int(np.prod(images.shape[2:])))
    if len(images) > most:
        images = images[np.linspace(0, len(images) - 1, most).astype(int)]
    return images


class _Fitting:
    """Fits each convolution when it runs, and replaces the second half of its output."""

    def __init__(
        self,
        sites: Sequence[ConvolutionSite],
        images: int,
        ratio: int,
        cheap_kernel_size: int,
        seed: int,
    ) -> None:
        self.images, self.ratio, self.size = images, ratio, cheap_kernel_size
        self.rng = np.random.default_rng(seed)
        self.convolutions = {id(site.conv): site for site in sites}
        self.norms = {id(site.norm): site for site in sites if site.norm is not None}
        self.primaries: dict[str, _Branch] = {}
        self.fits: dict[str, GhostFit] = {}

    def hook(self, _name: str, cell: nn.Cell, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x, out = inputs[0].asnumpy(), output.asnumpy().copy()
        half = self.images
        if id(cell) in self.convolutions:
            site = self.convolutions[id(cell)]
            out[half:] = self._corrected(site, x, out)
            if site.norm is None:
                out[half:] = self._derived(site, out)
        elif id(cell) in self.norms:
            out[half:] = self._derived(self.norms[id(cell)], out)
        else:
            # Batch statistics, as in training, and as recompute_running_statistics will store them.
            out[half:] = normalise(cell, x[half:], *channel_statistics(x[half:]))
        return Tensor(out)

    def _corrected(self, site: ConvolutionSite, x: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Correct all filters for their present inputs; return their outputs.

        A constant may be added to each map if there is a BN or a bias to hold it.
        """
        conv, half = site.conv, self.images
        weight, constants = conv.weight.asnumpy(), np.zeros(conv.out_channels)
        result = out[half:]
        if not np.array_equal(x[:half], x[half:]):
            count, _, height, width = result.shape
            positions = sample_positions(count, height, width, _POSITIONS, self.rng)
            errors = values_at(out[:half], positions) - values_at(result, positions)
            change, constants = correct_filters(
                conv, x[half:], errors, positions, _has_constants(site)
            )
            change = change.astype(np.float32)
            result = result + conv.conv2d(Tensor(x[half:]), Tensor(change)).asnumpy()
            weight = weight + change
        self.primaries[site.name] = _Branch(weight, constants, result)
        return result + per_channel(constants, 4)

    def _derived(self, site: ConvolutionSite, out: np.ndarray) -> np.ndarray:
        """Fit the module to the output of the convolution and its BN; return the module's maps."""
        wanted, maps = out[: self.images], out[self.images :]
        count, channels, height, width = maps.shape
        positions = sample_positions(count, height, width, _POSITIONS, self.rng)
        sources = maps if site.act is None else site.act(Tensor(maps)).asnumpy()
        targets, intercept = values_at(wanted, positions), _has_constants(site)
        cost = pair_residuals(sources, targets, positions, self.size, intercept)
        np.fill_diagonal(cost, ((values_at(maps, positions) - targets) ** 2).mean(axis=1))
        if not np.isfinite(cost).all():
            raise ValueError(
                f"the maps of {site.name} contain NaN or infinity, so no fit is possible"
            )
        source = choose_sources(cost, self.ratio)
        ghosts = np.flatnonzero(source != np.arange(channels))
        sources = sources[:, source[ghosts]]
        kernels, constants, errors = fit_kernels(
            sources, targets[ghosts], positions, self.size, intercept
        )
        cheap = _Branch(kernels, constants, _depthwise(sources, kernels))
        result = maps.copy()
        result[:, ghosts] = cheap.outputs + per_channel(constants, 4)

        residuals = np.diagonal(cost).copy()
        residuals[ghosts] = errors
        variance = targets.var(axis=1, dtype=np.float64)
        np.divide(residuals, variance, out=residuals, where=variance > 0)
        primary = self.primaries.pop(site.name)
        self.fits[site.name] = _ghost_fit(site, primary, cheap, source, self.ratio, residuals)
        return result


@dataclass(frozen=True)
class _Branch:
    """A convolution's weight, the constants to add to its maps, and its outputs without them."""

    weight: np.ndarray
    constants: np.ndarray
    outputs: np.ndarray


def _ghost_fit(
    site: ConvolutionSite,
    primary: _Branch,
    cheap: _Branch,
    source: np.ndarray,
    ratio: int,
    residuals: np.ndarray,
) -> GhostFit:
    """Arrange the filters of all maps and the kernels of the ghost maps as a module's weights."""
    intrinsic, places, order = _places(source, ratio)
    count = len(intrinsic) * (ratio - 1)
    bias = norm = cheap_bias = cheap_norm = None
    if site.conv.has_bias:
        bias = site.conv.bias.asnumpy()[intrinsic]
    if site.norm is not None:
        old = {name: getattr(site.norm, name).asnumpy()[intrinsic] for name in _BN_VALUES}
        scale = old["gamma"] / np.sqrt(old["moving_variance"] + site.norm.eps)
        shift = old["beta"] + scale * (primary.constants[intrinsic] - old["moving_mean"])
        norm = _batch_norm(primary.outputs[:, intrinsic], scale, shift, site.norm.eps)
        one = np.ones(len(places))
        values = _batch_norm(cheap.outputs, one, cheap.constants, site.norm.eps)
        cheap_norm = BatchNormValues(
            *(_spread(getattr(values, name), places, count) for name in _BN_VALUES)
        )
    elif bias is not None:
        bias = bias + primary.constants[intrinsic]
        cheap_bias = _spread(cheap.constants, places, count)
    cheap_weight = _spread(cheap.weight[:, None], places, count)
    return GhostFit(
        intrinsic=intrinsic,
        order=order,
        weight=primary.weight[intrinsic],
        bias=bias,
        norm=norm,
        cheap_weight=cheap_weight,
        cheap_bias=cheap_bias,
        cheap_norm=cheap_norm,
        residuals=residuals,
    )


def _batch_norm(
    maps: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float
) -> BatchNormValues:
    """Make the BN whose output for these maps is scale * maps + shift, with their statistics."""
    mean, variance = channel_statistics(maps)
    return BatchNormValues(scale * np.sqrt(variance + eps), shift + scale * mean, mean, variance)


def _has_constants(site: ConvolutionSite) -> bool:
    return site.norm is not None or site.conv.has_bias


def _spread(values: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """Put the values of the ghost maps in their places; unused places are zero."""
    spread = np.zeros((count, *values.shape[1:]))
    spread[places] = values
    return spread


def _places(source: np.ndarray, ratio: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the place of every map in a module.

    Args:
        source: for each map the one that it is derived from; itself if it is computed.
        ratio: s in the paper.

    Returns:
        Indices of the intrinsic maps; for each ghost map its index among the cheap convolution's
        outputs; for each map its index among the module's intrinsic and ghost maps.
    """
    own = source == np.arange(len(source))
    intrinsic, ghosts = np.flatnonzero(own), np.flatnonzero(~own)
    seat = np.searchsorted(intrinsic, source[ghosts])
    earlier = [int((seat[:index] == number).sum()) for index, number in enumerate(seat)]
    places = seat * (ratio - 1) + np.array(earlier, int)
    order = np.empty(len(source), int)
    order[intrinsic] = np.arange(len(intrinsic))
    order[ghosts] = len(intrinsic) + places
    return intrinsic, places, order


def _depthwise(maps: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Filter each map (N, C, H, W) by its kernel (C, d, d), with zero padding."""
    size = kernels.shape[-1]
    margin, (height, width) = size // 2, maps.shape[2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    result = np.zeros_like(maps)
    for u in range(size):
        for v in range(size):
            result += padded[:, :, u : u + height, v : v + width] * per_channel(kernels[:, u, v], 4)
    return result
