"""Ghost modules that begin with what a trained network knows.

Han et al. (arXiv 1911.11907, section 3.1) observe that many maps of a trained network are nearly
linear images of others, and make a network of such maps from nothing. Here a trained one is taken
apart: of each convolution the filters that give the others best are kept (``assignment``), and the
others' maps are derived by the d x d kernels that least squares finds on calibration images.

The convolutions are fitted in the order in which they run, in one pass of a batch that holds every
image twice: the first half goes through the network as it was, the second through what has been
fitted so far, and the second is brought near the first at every convolution. So errors don't add
up unseen: the filters that are kept are themselves corrected, by ridge regression, for inputs that
are no longer quite what they were trained on. That is how channel pruning reconstructs maps (He et
al., "Channel Pruning for Accelerating Very Deep Neural Networks", arXiv 1707.06168, section 3.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.least_squares import (
    fit_kernels,
    map_values,
    pair_residuals,
    sample_positions,
)
from mindcv_ghost.analysis.observation import observed
from mindcv_ghost.layers import GhostModule
from mindcv_ghost.surgery.assignment import choose_sources
from mindcv_ghost.surgery.filters import correct_filters
from mindcv_ghost.surgery.recalibration import (
    batch_norms,
    channel_statistics,
    normalised,
    per_channel,
    recalibrate_batch_norm,
)

if TYPE_CHECKING:
    from mindcv_ghost.surgery.convolutions import ConvolutionSite

__all__ = ["BatchNormValues", "GhostFit", "fit_ghost_modules", "load_fit", "recalibrate_batch_norm"]

# Positions that a convolution is fitted on: enough for the 49 weights of the largest cheap kernel,
# few enough for the 2048 x 2048 pairs of ResNet-50's last convolutions.
_POSITIONS = 4096
_BN_VALUES = ("gamma", "beta", "moving_mean", "moving_variance")
# Images are taken up to so many pixels: 4096 positions behind a stride of 32. The stem's maps of
# both halves are 0.5 GB then.
_PIXELS = 2**22


@dataclass(frozen=True)
class BatchNormValues:
    """A BN's parameters and moving statistics, each of shape (channels,)."""

    gamma: np.ndarray
    beta: np.ndarray
    moving_mean: np.ndarray
    moving_variance: np.ndarray


@dataclass(frozen=True)
class GhostFit:
    """What a Ghost module holds to stand in for a trained convolution.

    Args:
        intrinsic: numbers of the original maps that the primary convolution computes, of shape
            (m,), ascending.
        order: for each original map its place among the module's intrinsic maps and ghosts, of
            shape (out,).
        weight: of the primary convolution.
        bias: of it, or None.
        norm: of the BN behind it, or None.
        cheap_weight: of the cheap convolution, of shape (ghosts, 1, d, d); places that nobody reads
            are nought.
        cheap_bias: of it, or None.
        cheap_norm: of the BN behind it, or None.
        residuals: mean squared error of each map, by the original map's variance, of shape (out,);
            nought for a map that is constant and right.
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
    """Fit a Ghost module to each of some convolutions of a trained network, which stays as it is.

    Args:
        network: takes one tensor of images.
        sites: the convolutions, with the BN and the activation that follow.
        calibration: batches of images of shape (N, C, H, W), as the network is trained on them; a
            few hundred are enough. All together they go through the network at once; where they
            have more than four million pixels, as many as have, spread evenly over all.
        ratio: the paper's s.
        cheap_kernel_size: the paper's d, odd.
        seed: of the positions that are sampled.

    Returns:
        A fit for each site, by its name.

    Raises:
        ValueError: if the images differ in size, or a map holds NaN or infinity.
    """
    images = _images(calibration)
    fitting = _Fitting(sites, len(images), ratio, cheap_kernel_size, seed)
    cells = {site.name: site.conv for site in sites}
    cells.update(batch_norms(network))
    with observed(network, cells, fitting.see):
        network(Tensor(np.concatenate((images, images))))
    return fitting.fits


def load_fit(module: GhostModule, fit: GhostFit) -> None:
    """Give a Ghost module that has not run yet the values of a fit.

    Args:
        module: built with ``permuted=True`` and the convolution's sizes.
        fit: of that convolution.
    """
    for branch, weight, bias, norm in (
        (module.primary, fit.weight, fit.bias, fit.norm),
        (module.cheap, fit.cheap_weight, fit.cheap_bias, fit.cheap_norm),
    ):
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
        raise ValueError(f"calibration images must be of one size, not {sorted(shapes)}")
    images = np.concatenate(list(calibration))
    most = max(1, _PIXELS // int(np.prod(images.shape[2:])))
    if len(images) > most:
        images = images[np.linspace(0, len(images) - 1, most).astype(int)]
    return images


class _Fitting:
    """Sees convolutions and BNs run and changes the second half of what they put out."""

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

    def see(self, _name: str, cell: nn.Cell, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        given, out = inputs[0].asnumpy(), output.asnumpy().copy()
        half = self.images
        if id(cell) in self.convolutions:
            site = self.convolutions[id(cell)]
            out[half:] = self._corrected(site, given, out)
            if site.norm is None:
                out[half:] = self._derived(site, out)
        elif id(cell) in self.norms:
            out[half:] = self._derived(self.norms[id(cell)], out)
        else:
            # As in training, and as the recalibration leaves it.
            out[half:] = normalised(cell, given[half:], *channel_statistics(given[half:]))
        return Tensor(out)

    def _corrected(self, site: ConvolutionSite, given: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Correct all filters for the inputs that they have now; return what they put out.

        A constant may be added to each map if a BN or a bias follows that can take it up.
        """
        conv, half = site.conv, self.images
        weight, constants = conv.weight.asnumpy(), np.zeros(conv.out_channels)
        result = out[half:]
        if not np.array_equal(given[:half], given[half:]):
            count, _, height, width = result.shape
            positions = sample_positions(count, height, width, _POSITIONS, self.rng)
            lacking = map_values(out[:half], positions) - map_values(result, positions)
            change, constants = correct_filters(
                conv, given[half:], lacking, positions, _takes_constants(site)
            )
            change = change.astype(np.float32)
            result = result + conv.conv2d(Tensor(given[half:]), Tensor(change)).asnumpy()
            weight = weight + change
        self.primaries[site.name] = _Branch(weight, constants, result)
        return result + per_channel(constants, 4)

    def _derived(self, site: ConvolutionSite, out: np.ndarray) -> np.ndarray:
        """Fit the module to what the convolution, with its BN, should put out; return its maps."""
        wanted, maps = out[: self.images], out[self.images :]
        count, channels, height, width = maps.shape
        positions = sample_positions(count, height, width, _POSITIONS, self.rng)
        sources = maps if site.act is None else site.act(Tensor(maps)).asnumpy()
        targets, intercept = map_values(wanted, positions), _takes_constants(site)
        cost = pair_residuals(sources, targets, positions, self.size, intercept)
        np.fill_diagonal(cost, ((map_values(maps, positions) - targets) ** 2).mean(axis=1))
        if not np.isfinite(cost).all():
            raise ValueError(f"the maps of {site.name} hold NaN or infinity: nothing can be fitted")
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
    """A convolution's weight, what it puts out, and the constants that belong on top."""

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
    """Put the filters of all maps and the kernels of the ghosts into a module's places."""
    intrinsic, places, order = _places(source, ratio)
    seats = len(intrinsic) * (ratio - 1)
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
            *(_spread(getattr(values, name), places, seats) for name in _BN_VALUES)
        )
    elif bias is not None:
        bias = bias + primary.constants[intrinsic]
        cheap_bias = _spread(cheap.constants, places, seats)
    cheap_weight = _spread(cheap.weight[:, None], places, seats)
    return GhostFit(
        *(intrinsic, order, primary.weight[intrinsic], bias, norm),
        *(cheap_weight, cheap_bias, cheap_norm, residuals),
    )


def _batch_norm(
    maps: np.ndarray, scale: np.ndarray, shift: np.ndarray, eps: float
) -> BatchNormValues:
    """The BN that scales and shifts these maps, by its own statistics and by moving ones."""
    mean, variance = channel_statistics(maps)
    return BatchNormValues(scale * np.sqrt(variance + eps), shift + scale * mean, mean, variance)


def _takes_constants(site: ConvolutionSite) -> bool:
    return site.norm is not None or site.conv.has_bias


def _spread(values: np.ndarray, places: np.ndarray, seats: int) -> np.ndarray:
    """Values of the ghosts in their places, nought in those that nobody reads."""
    spread = np.zeros((seats, *values.shape[1:]))
    spread[places] = values
    return spread


def _places(source: np.ndarray, ratio: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a module puts every map.

    Args:
        source: of each map the one that it is derived from; itself if it is computed.
        ratio: the paper's s.

    Returns:
        The intrinsic maps; for each ghost its place among the cheap convolution's outputs; for each
        map its place among intrinsic maps and ghosts.
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
    """Each map (N, C, H, W) filtered by its kernel (C, d, d), zeros around it."""
    size = kernels.shape[-1]
    margin, (height, width) = size // 2, maps.shape[2:]
    padded = np.pad(maps, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
    result = np.zeros_like(maps)
    for u in range(size):
        for v in range(size):
            result += padded[:, :, u : u + height, v : v + width] * per_channel(kernels[:, u, v], 4)
    return result
