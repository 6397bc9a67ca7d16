"""Replace the convolutions of any network by Ghost modules.

Paper: Han et al., "GhostNet: More Features from Cheap Operations" (arXiv 1911.11907), section 3.1:
a Ghost module can replace a convolution of any network. ``ghostify`` turns MindCV's ``resnet50``
into ``ghost_resnet50``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, Callable, Union

import numpy as np
from mindspore import Tensor, nn

from mindcv_ghost.analysis.complexity import ComplexityReport, count_macs
from mindcv_ghost.analysis.hooks import first_convolution
from mindcv_ghost.compat import mint_convolutions
from mindcv_ghost.errors import near_names
from mindcv_ghost.layers.accelerated import refuse_accelerated
from mindcv_ghost.layers.ghost_module import GhostModule
from mindcv_ghost.layers.replacing import replace_cells
from mindcv_ghost.surgery.bn_statistics import recompute_running_statistics
from mindcv_ghost.surgery.convolutions import ConvolutionSite, find_convolutions
from mindcv_ghost.surgery.fit import fit_ghost_modules, load_fit
from mindcv_ghost.surgery.report import GhostifyReport, Replacement

__all__ = ["Calibration", "Where", "ghostify"]

_NOT_CHOSEN = "not chosen"

Where = Union[Callable[[str, nn.Conv2d], bool], Sequence[str], None]
Calibration = Union[Tensor, np.ndarray, Iterable]


def ghostify(
    network: nn.Cell,
    ratio: int = 2,
    cheap_kernel_size: int = 3,
    where: Where = None,
    init: str = "random",
    calibration: Calibration | None = None,
    image_size: int = 224,
    permuted: bool | None = None,
) -> tuple[nn.Cell, GhostifyReport]:
    """Replace the dense convolutions of a network by Ghost modules.

    Stride, padding, dilation and bias stay the same. The BN after a convolution moves into the
    module, which has one BN on each branch. The activation stays in its place, and the cheap branch
    reads the activated maps, as in the paper's module.

    These convolutions are kept: grouped and depthwise ones, subclasses of ``nn.Conv2d``, those that
    run more than once or not in evaluation mode, those whose maps have one position
    (squeeze-and-excitation) or that have fewer than ``ratio`` maps, and parts of Ghost modules. The
    first convolution is kept unless ``where`` chooses it.

    Args:
        network: takes one tensor of images. It is changed in place. It must not have run in graph
            mode before, because compiled graphs keep the old convolutions. Under mixed precision,
            cast the network again afterwards.
        ratio: s in the paper.
        cheap_kernel_size: d in the paper, odd.
        where: which convolutions to replace: a function of path and cell; paths, or patterns such
            as ``layer3.*``; None for all except the first.
        init: "random", or, for a trained network, "fit": keep each convolution's most useful
            filters and fit the cheap kernels to the other maps (:mod:`mindcv_ghost.surgery.fit`).
        calibration: for "fit": images prepared as in training, an array of shape (N, C, H, W) or an
            iterable of such arrays.
        image_size: side of the images for the runs that examine the network, in pixels.
        permuted: whether the modules have an ``order`` of their maps; None for only if ``init`` is
            "fit". With True, the network can load the weights of a fitted one.

    Returns:
        The network, and a report: what was replaced, what was kept and why, and parameters and MACs
        before and after.

    Raises:
        ValueError: if an argument isn't legal, a name in ``where`` matches no convolution that can
            be replaced, ``calibration`` is missing, or no convolution can be replaced.
        UserError: if the network is accelerated.
    """
    _check(ratio, cheap_kernel_size, init, calibration)
    refuse_accelerated(network, "ghostify")
    batches = [] if calibration is None else _batches(calibration)
    images = _images(network, image_size)
    before = count_macs(network, images.shape)
    sites = find_convolutions(network, images)
    reasons = {site.name: _reason_to_keep(site, ratio) for site in sites}
    chosen = _choose(sites, reasons, where)
    if not chosen:
        raise ValueError(f"no convolution to replace: {_why_none(sites, reasons)}")

    fits = {}
    permuted = init == "fit" if permuted is None else permuted
    if init == "fit":
        fits = fit_ghost_modules(network, chosen, batches, ratio, cheap_kernel_size)
    for site in chosen:
        module = _ghost_module(site, ratio, cheap_kernel_size, permuted)
        if fits:
            load_fit(module, fits[site.name])
        _replace(network, site, module)
    after = count_macs(network, images.shape)
    _check_that_all_run(chosen, after)
    if fits:
        recompute_running_statistics(network, batches)
    return network, GhostifyReport(
        ratio=ratio,
        cheap_kernel_size=cheap_kernel_size,
        init=init,
        before=before,
        after=after,
        convolutions=tuple(
            Replacement.of(site, site in chosen, reasons[site.name] or _NOT_CHOSEN)
            for site in sites
        ),
    )


def _check(ratio: Any, cheap_kernel_size: Any, init: str, calibration: Any) -> None:
    for name, value in (("ratio", ratio), ("cheap_kernel_size", cheap_kernel_size)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} is {value!r}, but it must be a whole number")
    if ratio < 2:
        raise ValueError(f"ratio is {ratio}, but it must be at least 2: 1 is a plain convolution")
    if cheap_kernel_size < 1 or cheap_kernel_size % 2 == 0:
        raise ValueError(f"cheap_kernel_size is {cheap_kernel_size}, but it must be odd")
    if init not in ("random", "fit"):
        raise ValueError(f"init is {init!r}; legal are 'random' and 'fit'")
    if init == "fit" and calibration is None:
        raise ValueError("init='fit' needs calibration: images prepared as in training")


def _batches(calibration: Calibration) -> list[np.ndarray]:
    if isinstance(calibration, (Tensor, np.ndarray)):
        calibration = [calibration]
    batches = [b.asnumpy() if isinstance(b, Tensor) else np.asarray(b) for b in calibration]
    if not batches or any(batch.ndim != 4 or not len(batch) for batch in batches):
        raise ValueError(
            "calibration has no images of shape (N, C, H, W): its batches have the shapes "
            f"{[batch.shape for batch in batches]}"
        )
    return [batch.astype(np.float32) for batch in batches]


def _images(network: nn.Cell, image_size: int) -> Tensor:
    first = first_convolution(network)
    if first is None:
        mint = mint_convolutions(network)
        none = f"has only mindspore.mint's ({mint[0]})" if mint else "has none"
        raise ValueError(f"no convolution to replace: {type(network).__name__} {none}")
    channels = first.in_channels
    random = np.random.RandomState(0)  # zeros would hide readers
    return Tensor(random.standard_normal((1, channels, image_size, image_size)).astype(np.float32))


def _reason_to_keep(site: ConvolutionSite, ratio: int) -> str:
    if site.kept:
        return site.kept
    if site.conv.out_channels < ratio:
        return f"{site.conv.out_channels} maps can't be divided by {ratio}"
    return ""


def _choose(
    sites: list[ConvolutionSite], reasons: dict[str, str], where: Where
) -> list[ConvolutionSite]:
    """Choose the sites to replace; add to ``reasons`` why the first convolution is kept."""
    able = [site for site in sites if not reasons[site.name]]
    if where is None:
        for site in able:
            if site.first:
                reasons[site.name] = "the first convolution"
        return [site for site in able if not site.first]
    if callable(where):
        return [site for site in able if where(site.name, site.conv)]
    patterns = [where] if isinstance(where, str) else list(where)
    for pattern in patterns:
        _check_pattern(pattern, sites, reasons)
    return [site for site in able if any(fnmatchcase(site.name, p) for p in patterns)]


def _check_pattern(pattern: str, sites: list[ConvolutionSite], reasons: dict[str, str]) -> None:
    matches = [site.name for site in sites if fnmatchcase(site.name, pattern)]
    if not matches:
        names = [site.name for site in sites]
        near = near_names(pattern, names, count=3) or names[:3]
        raise ValueError(f"where: no convolution is named {pattern!r}; there are {', '.join(near)}")
    if all(reasons[name] for name in matches):
        raise ValueError(f"where: {matches[0]} can't be replaced: {reasons[matches[0]]}")


def _why_none(sites: list[ConvolutionSite], reasons: dict[str, str]) -> str:
    counted: dict[str, int] = {}
    for site in sites:
        reason = reasons[site.name] or _NOT_CHOSEN
        counted[reason] = counted.get(reason, 0) + 1
    found = [f"{count} of {len(sites)}: {reason}" for reason, count in counted.items()]
    return "; ".join(found) or "the network runs none"


def _ghost_module(
    site: ConvolutionSite, ratio: int, cheap_kernel_size: int, permuted: bool
) -> GhostModule:
    conv = site.conv
    return GhostModule(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        ratio,
        cheap_kernel_size,
        conv.stride,
        False if site.act is None else site.act,
        padding=conv.padding,
        pad_mode=conv.pad_mode,
        dilation=conv.dilation,
        bias=conv.has_bias,
        norm=False if site.norm is None else _norm_maker(site.norm),
        act_on_output=site.act is None,
        permuted=permuted,
    )


def _norm_maker(norm: nn.BatchNorm2d) -> Callable[[int], nn.Cell]:
    """Make BNs with the same settings as this one, including an initial scale of zero."""
    scales = np.unique(norm.gamma.asnumpy())
    scale = scales[0] if len(scales) == 1 else 1.0

    def make(channels: int) -> nn.Cell:
        # The attribute is the new batch's share; the operator keeps what the constructor was given.
        made = nn.BatchNorm2d(channels, eps=norm.eps, momentum=1.0 - norm.momentum)
        made.gamma.set_data(Tensor(np.full(channels, scale, np.float32)))
        return made

    return make


def _replace(network: nn.Cell, site: ConvolutionSite, module: GhostModule) -> None:
    """Replace a convolution by a module, and its BN by the identity."""
    module.update_parameters_name(site.conv.weight.name[: -len("weight")])
    exchange: dict[int, nn.Cell] = {id(site.conv): module}
    if site.norm is not None:
        exchange[id(site.norm)] = nn.Identity()
    module.set_train(site.conv.training)
    replace_cells(network, exchange)


def _check_that_all_run(chosen: list[ConvolutionSite], after: ComplexityReport) -> None:
    ran = {layer.name for layer in after.layers}
    idle = [site.name for site in chosen if f"{site.name}.primary.conv" not in ran]
    if idle:
        raise ValueError(
            f"the network still runs the old {', '.join(idle)}: it refers to this cell in a "
            "place that can't be replaced. Create the network again and exclude the cell with where"
        )
