"""Sums over the ranks of one machine, through memory that they share."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from mindspore import Tensor, nn, ops

from mindcv_ghost.kernels.custom_op import settings_tensor

__all__ = ["AllReduce", "share_memory"]

_TOKEN_BYTES = 16


class AllReduce(nn.Cell):
    """Sums tensors over the ranks; the bits are those of MindSpore's all-reduce of each tensor.

    :func:`share_memory` has to succeed before the first call. All ranks call it in the same order.

    Args:
        path: of the library of operators.
        factor: that the sums are multiplied by.

    Inputs: a float32 tensor, or a tuple of them, of any shapes. Outputs: the sum, or their sums.
    """

    def __init__(self, path: str, factor: float = 1.0) -> None:
        super().__init__(auto_prefix=False)

        def infer(settings, *tensors):
            return tensors if len(tensors) > 1 else tensors[0]

        self.settings = settings_tensor(factor)
        self.forward = ops.Custom(f"{path}:ghost_all_reduce", infer, infer, func_type="aot")

    def construct(self, tensors):
        if isinstance(tensors, Tensor):
            return self.forward(self.settings, tensors)
        if len(tensors) == 1:
            return (self.forward(self.settings, tensors[0]),)
        return self.forward(self.settings, *tensors)


def share_memory(
    path: str, rank: int, ranks: int, gather: Callable[[np.ndarray], np.ndarray]
) -> str:
    """Share memory with the other ranks of this machine; every rank has to call it.

    The memory is a file without a name, which the other ranks open through rank 0's /proc entry:
    none is left behind, however a rank ends, and its size isn't limited by that of /dev/shm (64 MB
    in a container).

    Args:
        path: of the library of operators; "" if this rank has none.
        rank: this process, 0 to ``ranks - 1``.
        ranks: number of processes.
        gather: collects an array of int64 from all ranks.

    Returns:
        "" if all ranks share it; else why they don't, a clause, the same on every rank.
    """
    token, descriptor = secrets.token_bytes(_TOKEN_BYTES), -1
    problem = 0 if path else errno.ENOSYS
    library, size = _load(path, ranks) if path else (None, 0)
    if rank == 0 and not problem:
        descriptor, problem = _attempt(lambda: _create(token, size))
    numbers = np.array([os.getpid(), descriptor, *token], np.int64)
    process, number, *said = gather(numbers)[0].tolist()
    try:
        if rank != 0 and not problem and number >= 0:
            descriptor, problem = _attempt(lambda: _open(process, number, bytes(said), size))
        if library is not None and descriptor >= 0:
            failed = library.ghost_join_ranks(descriptor, rank, ranks)
            problem = errno.ENOMEM if failed else 0
        problems = gather(np.array([problem], np.int64))[:, 0].tolist()
    finally:
        if descriptor >= 0:  # what is mapped stays
            os.close(descriptor)
    for number, problem in enumerate(problems):
        if problem:
            return f"rank {number} can't share memory ({os.strerror(problem)})"
    return ""


def _load(path: str, ranks: int) -> tuple[ctypes.CDLL, int]:
    """Return the library, and the bytes that the ranks share."""
    library = ctypes.CDLL(path)
    library.ghost_shared_bytes.restype = ctypes.c_int64
    return library, library.ghost_shared_bytes(ranks)


def _attempt(call: Callable[[], int]) -> tuple[int, int]:
    """Return a file descriptor and 0, or -1 and the number of the error."""
    try:
        return call(), 0
    except OSError as error:
        return -1, error.errno or errno.EIO


def _create(token: bytes, size: int) -> int:
    """Make the memory, all of it: what the machine doesn't have is noticed now."""
    if not hasattr(os, "memfd_create"):  # Linux before 3.17, or a Python without it
        raise OSError(errno.ENOSYS, "no memfd_create")
    descriptor = os.memfd_create("mindcv-ghost")
    try:
        os.posix_fallocate(descriptor, 0, size + len(token))
        os.pwrite(descriptor, token, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _open(process: int, number: int, token: bytes, size: int) -> int:
    """Open another process's memory. In another container its number is some other process's."""
    descriptor = os.open(f"/proc/{process}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    with suppress(OSError):
        if os.pread(descriptor, len(token), size) == token:
            return descriptor
    os.close(descriptor)
    raise OSError(errno.ENXIO, "not the memory of rank 0")
