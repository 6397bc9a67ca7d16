"""What the ranks of a data-parallel job tell each other outside the training step."""

from __future__ import annotations

import hashlib
import json

import mindspore as ms
import numpy as np
from mindspore import nn, ops

from mindcv_ghost.engine.parameters import write

__all__ = ["Collectives"]

# How many numbers an all-reduce takes at once. Data are cut into pieces of the largest size, and
# what is left is filled up with zeros to the next: MindSpore compiles a graph for each shape that
# it meets, in milliseconds on the CPU, but by all of GE under O2 on Ascend.
_SIZES = (1 << 8, 1 << 16, 1 << 22)


class _AllReduceSum(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, x):
        return self.all_reduce(x)


class Collectives:
    """Sums, gathers and broadcasts between ranks, exact for every data type.

    Everything is built on one float32 AllReduce, the only collective and the only data type (beside
    float16) that MindSpore has on Ascend, GPU and CPU alike: an int32 AllReduce fails on the CPU of
    MindSpore 2.8 ("Unsupported data type! ... supported input[Float32]; input[Float16]").

    Args:
        rank: this process, 0..size-1.
        size: number of processes; with 1 nothing is communicated.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} lies outside 0..{size - 1}")
        self.rank = rank
        self.size = size
        self._sum = _AllReduceSum() if size > 1 else None

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Add a float32 array over the ranks; each rank gets the same bits."""
        values = np.asarray(values, np.float32)
        if self._sum is None:
            return values
        flat, largest = values.ravel(), _SIZES[-1]
        pieces = [flat[start : start + largest] for start in range(0, flat.size, largest)]
        return np.concatenate([self._sum_piece(p) for p in pieces] or [flat]).reshape(values.shape)

    def _sum_piece(self, piece: np.ndarray) -> np.ndarray:
        filled = np.zeros(next(size for size in _SIZES if size >= piece.size), np.float32)
        filled[: piece.size] = piece
        return self._sum(ms.Tensor(filled)).asnumpy()[: piece.size]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Collect every rank's array, bit for bit, whatever its data type.

        Args:
            values: an array of equal shape and data type on all ranks.

        Returns:
            An array of shape ``(size, *values.shape)``.
        """
        values = np.asarray(values)
        if self._sum is None:
            return values[np.newaxis].copy()
        return np.stack([self.broadcast(values, root) for root in range(self.size)])

    def broadcast(self, values: np.ndarray, root: int = 0) -> np.ndarray:
        """Give every rank the root's array, bit for bit, whatever its data type.

        Two bytes at a time travel as a float32 number below 65536, which AllReduce adds to zeros
        without error. Sending float32 as it is would turn -0.0 into 0.0.

        Args:
            values: an array of equal shape and data type on all ranks; the root's counts.
            root: whose.
        """
        values = np.asarray(values)
        if self._sum is None:
            return values
        data = values.tobytes() if self.rank == root else bytes(values.nbytes)
        halves = np.frombuffer(data + bytes(len(data) % 2), np.uint16)
        data = self.sum(halves.astype(np.float32)).astype(np.uint16).tobytes()[: values.nbytes]
        return np.frombuffer(data, values.dtype).reshape(values.shape).copy()

    def broadcast_arrays(self, arrays: list[np.ndarray], root: int = 0) -> list[np.ndarray]:
        """Broadcast many arrays as one, in as few calls as their bytes need.

        Args:
            arrays: of equal shapes and data types on all ranks.
            root: whose values count.
        """
        if self._sum is None:
            return arrays
        data = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
        data = self.broadcast(data, root)
        ends = np.cumsum([array.nbytes for array in arrays])
        return [
            data[end - array.nbytes : end].view(array.dtype).reshape(array.shape)
            for array, end in zip(arrays, ends)
        ]

    def broadcast_object(self, value: object) -> object:
        """Give every rank rank 0's value, which must be what JSON can hold."""
        if self._sum is None:
            return value
        data = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(self.broadcast(np.array(data.size, np.int64)))
        data = self.broadcast(data if self.rank == 0 else np.zeros(size, np.uint8))
        return json.loads(data.tobytes())

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        self.gather(np.zeros(1, np.uint8))

    def broadcast_parameters(self, network: nn.Cell) -> None:
        """Give every rank rank 0's parameters, BN statistics included.

        Raises:
            RuntimeError: if the ranks' parameters still differ afterwards.
        """
        if self.size == 1:
            return
        parameters = list(network.get_parameters())
        values = self.broadcast_arrays([p.asnumpy() for p in parameters])
        for p, value in zip(parameters, values):
            write(p, value)
        self.assert_equal(network)

    def average(self, parameters: list[ms.Parameter]) -> None:
        """Replace float32 parameters by their mean over the ranks."""
        if self.size == 1 or not parameters:
            return
        flat = np.concatenate([p.asnumpy().ravel() for p in parameters])
        self._scatter(parameters, self.sum(flat) / np.float32(self.size))

    def assert_equal(self, network: nn.Cell) -> None:
        """Compare a checksum of all parameters over the ranks.

        Raises:
            RuntimeError: if a rank's parameters differ; names the ranks.
        """
        digest = np.frombuffer(bytes.fromhex(checksum(network)), np.uint8)
        rows = self.gather(digest)
        different = [rank for rank in range(self.size) if not np.array_equal(rows[rank], rows[0])]
        if different:
            raise RuntimeError(f"the parameters of ranks {different} differ from those of rank 0")

    @staticmethod
    def _scatter(parameters: list[ms.Parameter], flat: np.ndarray) -> None:
        start = 0
        for p in parameters:
            part = flat[start : start + p.size].reshape(p.shape)
            write(p, part)
            start += p.size


def checksum(network: nn.Cell) -> str:
    """SHA-256 over names, shapes and bytes of a network's parameters, in their order."""
    digest = hashlib.sha256()
    for p in network.get_parameters():
        digest.update(f"{p.name}{tuple(p.shape)}".encode())
        digest.update(np.ascontiguousarray(p.asnumpy()).tobytes())
    return digest.hexdigest()
