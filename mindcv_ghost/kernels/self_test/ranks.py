"""The check of the all-reduce, which takes several processes."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from mindcv_ghost.kernels.self_test import reference
from mindcv_ghost.kernels.self_test.call import call

__all__ = ["check_ranks"]

# Fewer values than ranks; not a multiple of the ranks; more than a block (rank_group.h).
_SIZES = (2, 70_001, 1, 3, 300_000, 64)
_SECONDS = 60


def check_ranks(library: ctypes.CDLL, ranks: int = 3) -> None:
    """Sum tensors over forked processes, and compare the bits with the formula's.

    Without memory to share there is nothing to check: ranks then use MindSpore's all-reduce.

    Args:
        library: as ``ctypes`` loaded it.
        ranks: number of processes.

    Raises:
        AssertionError: if a sum has other bits.
    """
    library.ghost_shared_bytes.restype = ctypes.c_int64
    size = library.ghost_shared_bytes(ranks)
    try:
        descriptor = os.memfd_create("mindcv-ghost-test")
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError):
        return
    random = np.random.default_rng(0)
    values = [[random.normal(size=n).astype(np.float32) for n in _SIZES] for _ in range(ranks)]
    children = []
    for rank in range(ranks):
        child = os.fork()
        if child == 0:
            _run(library, descriptor, rank, values)
        children.append(child)
    os.close(descriptor)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    if any(statuses):
        raise AssertionError(f"ghost_all_reduce: {ranks} processes end with {statuses}")


def _run(
    library: ctypes.CDLL, descriptor: int, rank: int, values: Sequence[Sequence[np.ndarray]]
) -> None:
    """Be a rank; the process ends with 0 if all sums are right."""
    status = 1
    try:
        signal.alarm(_SECONDS)  # kills this process if another one has failed
        status = library.ghost_join_ranks(descriptor, rank, len(values))
        sums = [reference.ring_sum(each) for each in zip(*values)]
        for factor in (1, 1 / len(values)):
            inputs: list[ArrayLike] = [[factor], *values[rank]]
            got = call(library, "ghost_all_reduce", inputs, [each.shape for each in values[rank]])
            for mine, sum_of_all in zip(got, sums):
                if mine.tobytes() != (sum_of_all * np.float32(factor)).tobytes():
                    status = 2
    finally:
        os._exit(status)
