"""Time calls in turns, so that a machine that is busy for a while slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

__all__ = ["evaluations", "seconds_in_turns"]

Key = TypeVar("Key")
_CALIBRATION_IMAGES = 8


def evaluations(
    network: Any, shape: Sequence[int], batch_sizes: Sequence[int], random: np.random.RandomState
) -> dict[int, Callable[[], object]]:
    """Accelerate an untrained network, and prepare its evaluation of random images.

    BN's running statistics become those of random images: with the initial ones the values can grow
    or vanish from layer to layer, and numbers that are nearly 0 (denormal ones) are slow.

    Args:
        network: an ``nn.Cell``, changed in place.
        shape: of an image, (C, H, W).
        batch_sizes: numbers of images.
        random: draws the images.

    Returns:
        batch size -> a call that evaluates such a batch. The first one compiles the network.
    """
    import mindspore as ms

    import mindcv_ghost
    from mindcv_ghost.surgery.bn_statistics import recompute_running_statistics

    def evaluation(images: ms.Tensor) -> Callable[[], object]:
        return lambda: network(images).asnumpy()

    def random_images(size: int) -> np.ndarray:
        return random.standard_normal((size, *shape)).astype(np.float32)

    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)  # nothing has to be compiled for one batch
    recompute_running_statistics(network, [random_images(_CALIBRATION_IMAGES)])
    ms.set_context(mode=mode)
    mindcv_ghost.accelerate(network.set_train(False))
    calls = {}
    for size in batch_sizes:
        images = ms.Tensor(random_images(size))
        calls[size] = evaluation(images)
    return calls


def seconds_in_turns(
    calls: Mapping[Key, Callable[[], object]], rounds: int, seconds: float
) -> dict[Key, list[float]]:
    """Time each call once per round.

    Args:
        calls: key -> what is timed. Each is called once before the first round, to compile it.
        rounds: number of rounds.
        seconds: for as long a call is repeated in its turn, at least once. The first repetition
            of several isn't counted: the caches are those of the call before.

    Returns:
        key -> for each round, the median seconds of a call.
    """
    for call in calls.values():
        call()
    found: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            found[key].append(_median_seconds(call, seconds))
    return found


def _median_seconds(call: Callable[[], object], seconds: float) -> float:
    taken: list[float] = []
    while sum(taken) < seconds:
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[1:] or taken)
