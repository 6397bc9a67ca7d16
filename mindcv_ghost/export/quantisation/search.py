"""Which calibration method is used and which layers stay in float32, by measured accuracy."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Callable

import numpy as np
import onnx

from mindcv_ghost.errors import UserError
from mindcv_ghost.export.quantisation.calibration import METHODS, Ranges, calibrate
from mindcv_ghost.export.quantisation.insertion import insert_quantisation, prepare
from mindcv_ghost.export.quantisation.layers import Layer, weighted_layers
from mindcv_ghost.export.quantisation.report import (
    LayerCost,
    QuantisationError,
    QuantisedModel,
    Trial,
    trials_table,
)
from mindcv_ghost.export.quantisation.scheme import Scheme, choose_scheme
from mindcv_ghost.export.quantisation.sensitivity import layer_errors, logits_of, signal_to_noise

__all__ = ["quantise"]

_logger = logging.getLogger(__name__)

# Images on which logits are compared. A layer's error is a sum over images and classes: with 32
# images the order of ghost_resnet50's worst ten layers is that with 256.
_COMPARED = 32
# More than this share of the multiply-adds in float32 isn't called an int8 model.
_MOST_FLOAT = 0.5

Accuracy = Callable[[onnx.ModelProto], float]


def quantise(
    model: onnx.ModelProto,
    calibration: Sequence[np.ndarray],
    accuracy: Accuracy,
    *,
    max_drop: float = 1.0,
    runtime: str = "onnxruntime",
    scheme: Scheme | None = None,
) -> QuantisedModel:
    """Quantise a network to int8 (QDQ, a scale for each filter) within a limit on accuracy.

    Every calibration method is tried on the whole network, and the most accurate one is taken; if
    two are equal, the one with less noise in its logits. If it loses too much, the layers that cost
    most stay in float32: as few of them as accuracy asks for.

    Args:
        model: float32, opset 13 or newer, BN folded, as ``to_onnx`` writes it.
        calibration: float32 batches (N, C, H, W) as the network takes them; 100 images and more.
        accuracy: returns a model's top-1 in percent on the validation set.
        max_drop: percentage points of top-1 that int8 may cost.
        runtime: "onnxruntime" or "openvino".
        scheme: the integers; None: those that suit the runtime and this machine's processor.

    Raises:
        QuantisationError: if ``max_drop`` can't be kept with half of the multiply-adds in int8.
        UserError: if model, images or runtime can't be used.
    """
    if not max_drop >= 0:
        raise UserError(
            f"max_drop is {max_drop}, but it must be 0 or more percentage points of top-1"
        )
    scheme = choose_scheme(runtime) if scheme is None else scheme
    prepared = prepare(model)
    _check_images(prepared, calibration)
    search = _Search(prepared, calibration, accuracy, scheme)
    ranges = {method: calibrate(prepared, calibration, method) for method in METHODS}
    whole = {method: search.trial(method, ranges[method], ()) for method in METHODS}
    method = max(METHODS, key=lambda name: (whole[name].accuracy, whole[name].sqnr_db))
    errors = layer_errors(
        prepared, search.layers, ranges[method], scheme, search.compared, search.exact
    )
    excluded: tuple[str, ...] = ()
    if search.drop(whole[method]) > max_drop:
        excluded = search.exclude(method, ranges[method], errors, max_drop)
    best = next(
        each
        for each in reversed(search.trials)
        if (each.method, each.excluded) == (method, len(excluded))
    )
    result = QuantisedModel(
        model=insert_quantisation(prepared, ranges[method], scheme, excluded=excluded),
        scheme=scheme,
        runtime=runtime,
        method=method,
        excluded=excluded,
        report=search.report(errors, excluded),
        trials=tuple(search.trials),
        accuracy_before=search.before,
        accuracy_after=best.accuracy,
    )
    _describe(result)
    return result


class _Search:
    """The network, and what has been tried.

    Args:
        model: as ``prepare`` returned it.
        calibration: batches.
        accuracy: returns a model's top-1 in percent.
        scheme: the integers.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        calibration: Sequence[np.ndarray],
        accuracy: Accuracy,
        scheme: Scheme,
    ) -> None:
        self.model = model
        self.scheme = scheme
        self.layers: list[Layer] = weighted_layers(model)
        if not self.layers:
            raise UserError("the model has no layer with weights that could be int8")
        self.compared = _spread(calibration, _COMPARED)
        self.trials: list[Trial] = []
        self._accuracy = accuracy
        self.exact = logits_of(model, self.compared)
        self.before = accuracy(model)

    def trial(self, method: str, ranges: Ranges, excluded: Sequence[str]) -> Trial:
        """Quantise and measure; the trial is also kept in ``trials``."""
        model = insert_quantisation(self.model, ranges, self.scheme, excluded=excluded)
        noise = signal_to_noise(self.exact, logits_of(model, self.compared))
        self.trials.append(Trial(method, len(excluded), self._accuracy(model), noise))
        lines = trials_table(self.before, self.trials[-1:], len(self.layers)).splitlines()
        _logger.info("%s", lines[-1])
        return self.trials[-1]

    def drop(self, trial: Trial) -> float:
        """Return the percentage points that a trial lost, rounded to hide float's last bits."""
        return round(self.before - trial.accuracy, 6)

    def exclude(
        self, method: str, ranges: Ranges, errors: dict[str, float], max_drop: float
    ) -> tuple[str, ...]:
        """Return the fewest of the costliest layers without which the drop is small enough.

        Their number is doubled until it is, then halved in between.

        Raises:
            QuantisationError: if it never is.
        """
        order = self._excludable(errors)

        def enough(count: int) -> bool:
            return self.drop(self.trial(method, ranges, order[:count])) <= max_drop

        short, count = 0, min(1, len(order))
        while not enough(count):
            if count == len(order):
                raise self._failure(errors, order, max_drop)
            short, count = count, min(2 * count, len(order))
        while count - short > 1:
            middle = (short + count) // 2
            short, count = (short, middle) if enough(middle) else (middle, count)
        return tuple(order[:count])

    def _excludable(self, errors: dict[str, float]) -> list[str]:
        """Return layers, the costliest first, with at most half of the multiply-adds."""
        left = _MOST_FLOAT * sum(layer.macs for layer in self.layers)
        names = []
        for layer in sorted(self.layers, key=lambda layer: errors[layer.name]):
            left -= layer.macs
            if left < 0:
                break
            names.append(layer.name)
        return names

    def report(self, errors: dict[str, float], excluded: Sequence[str]) -> tuple[LayerCost, ...]:
        """Return a row for each layer."""
        return tuple(
            LayerCost(
                layer=each.name,
                weight=each.weight,
                kind=each.kind,
                macs=each.macs,
                sqnr_db=errors[each.name],
                excluded=each.name in excluded,
            )
            for each in self.layers
        )

    def _failure(
        self, errors: dict[str, float], excluded: Sequence[str], max_drop: float
    ) -> QuantisationError:
        best = max(self.trials, key=lambda trial: trial.accuracy)
        table = trials_table(self.before, self.trials, len(self.layers))
        return QuantisationError(
            f"int8 costs {self.drop(best):.2f} percentage points of top-1, and max_drop allows "
            f"{max_drop}. The layers that cost most were left in float32, up to half of the "
            f"multiply-adds:\n{table}\nCalibrate on more images of the training set, or allow a "
            f"higher max_drop; --int8_report FILE lists the layers.",
            self.report(errors, excluded),
        )


def _spread(batches: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
    """Return so many images, spread over all batches: image folders are sorted by class."""
    images = [image for batch in batches for image in batch]
    step = max(1, len(images) // count)
    chosen = images[::step][:count]
    return [np.stack(chosen[start : start + 8]) for start in range(0, len(chosen), 8)]


def _check_images(model: onnx.ModelProto, calibration: Sequence[np.ndarray]) -> None:
    dims = model.graph.input[0].type.tensor_type.shape.dim[1:]
    wanted = [dim.dim_value or "any" for dim in dims]
    if not sum(len(batch) for batch in calibration):
        raise UserError("int8 needs images to calibrate on, and there are none")
    for batch in calibration:
        fits = batch.ndim == 4 and all(w in ("any", n) for w, n in zip(wanted, batch.shape[1:]))
        if batch.dtype != np.float32 or not fits:
            raise UserError(
                f"a calibration batch is {batch.dtype} of shape {batch.shape}; the network takes "
                f"float32 of shape (batch, {', '.join(map(str, wanted))})"
            )


def _describe(result: QuantisedModel) -> None:
    """Write the record into the model's metadata."""
    entries = result.model.metadata_props
    found = [entry for entry in entries if entry.key == "quantisation"] or [entries.add()]
    found[0].key, found[0].value = "quantisation", json.dumps(result.record())
