"""Communication between the ranks of a data-parallel job outside the training step."""

from __future__ import annotations

import json

import mindspore as ms
import numpy as np
from mindspore import nn, ops
from numpy.typing import ArrayLike

from mindcv_ghost.engine.parameters import assign_parameter, checksum

__all__ = ["Collectives"]

# Numbers per all-reduce. Data are cut into chunks of the largest size, and the rest is padded with
# zeros to the next size. MindSpore compiles a graph for each shape that it meets, which takes
# milliseconds on the CPU, but all of GE's time under O2 on Ascend.
_SIZES = (1 << 8, 1 << 16, 1 << 22)


class _AllReduceSum(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.all_reduce = ops.AllReduce(ops.ReduceOp.SUM)

    def construct(self, x):
        return self.all_reduce(x)


class Collectives:
    """Sums, gathers and broadcasts between ranks, bit for bit for every data type.

    Everything uses one float32 AllReduce. It is the only collective that MindSpore has on Ascend,
    GPU and CPU alike, and float16 the only other data type: an int32 AllReduce fails on the CPU in
    MindSpore 2.8 ("Unsupported data type! ... supported input[Float32]; input[Float16]").

    Args:
        rank: of this process, 0..size-1.
        size: number of processes; with 1 nothing is communicated.

    Raises:
        ValueError: if ``rank`` is out of range.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"rank {rank} lies outside 0..{size - 1}")
        self.rank = rank
        self.size = size
        self._sum = _AllReduceSum() if size > 1 else nn.Identity()

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Sum a float32 array over the ranks; all ranks get the same bits."""
        values = np.asarray(values, np.float32)
        if self.size == 1:
            return values
        flat, largest = values.ravel(), _SIZES[-1]
        chunks = [flat[start : start + largest] for start in range(0, flat.size, largest)]
        return np.concatenate([self._sum_chunk(c) for c in chunks] or [flat]).reshape(values.shape)

    def _sum_chunk(self, chunk: np.ndarray) -> np.ndarray:
        padded = np.zeros(next(size for size in _SIZES if size >= chunk.size), np.float32)
        padded[: chunk.size] = chunk
        return self._sum(ms.Tensor(padded)).asnumpy()[: chunk.size]

    def gather(self, values: ArrayLike) -> np.ndarray:
        """Collect the arrays of all ranks, bit for bit, of any data type.

        Args:
            values: an array of equal shape and data type on all ranks.

        Returns:
            An array of shape ``(size, *values.shape)``.
        """
        values = np.asarray(values)
        if self.size == 1:
            return values[np.newaxis].copy()
        return np.stack([self.broadcast(values, root) for root in range(self.size)])

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum the arrays of all ranks exactly, one rank after another: they may be large.

        Args:
            values: integers, of equal shape and data type on all ranks.
        """
        if self.size == 1:
            return values
        result = np.zeros_like(values)
        for root in range(self.size):
            result += self.broadcast(values, root)
        return result

    def broadcast(self, values: np.ndarray, root: int = 0) -> np.ndarray:
        """Send the root's array to all ranks, bit for bit, of any data type.

        Each two bytes are sent as a float32 number below 65536, which AllReduce adds to zeros
        exactly. Sending float32 as it is would turn -0.0 into 0.0.

        Args:
            values: an array of equal shape and data type on all ranks; only the root's values
                matter.
            root: rank of the sender.
        """
        values = np.asarray(values)
        if self.size == 1:
            return values
        data = values.tobytes() if self.rank == root else bytes(values.nbytes)
        halves = np.frombuffer(data + bytes(len(data) % 2), np.uint16)
        data = self.sum(halves.astype(np.float32)).astype(np.uint16).tobytes()[: values.nbytes]
        return np.frombuffer(data, values.dtype).reshape(values.shape).copy()

    def broadcast_arrays(self, arrays: list[np.ndarray], root: int = 0) -> list[np.ndarray]:
        """Broadcast several arrays as one.

        Args:
            arrays: of equal shapes and data types on all ranks; only the root's values matter.
            root: rank of the sender.
        """
        if self.size == 1:
            return arrays
        data = np.frombuffer(b"".join(array.tobytes() for array in arrays), np.uint8)
        data = self.broadcast(data, root)
        ends = np.cumsum([array.nbytes for array in arrays])
        return [
            data[end - array.nbytes : end].view(array.dtype).reshape(array.shape)
            for array, end in zip(arrays, ends)
        ]

    def broadcast_object(self, value: object) -> object:
        """Send rank 0's value to all ranks; JSON must be able to hold it."""
        if self.size == 1:
            return value
        data = np.frombuffer(json.dumps(value).encode(), np.uint8)
        size = int(self.broadcast(np.array(data.size, np.int64)))
        data = self.broadcast(data if self.rank == 0 else np.zeros(size, np.uint8))
        return json.loads(data.tobytes())

    def barrier(self) -> None:
        """Wait until all ranks have called this."""
        self.gather(np.zeros(1, np.uint8))

    def broadcast_parameters(self, network: nn.Cell) -> None:
        """Send rank 0's parameters, BN statistics included, to all ranks.

        Raises:
            RuntimeError: if the ranks' parameters still differ afterwards.
        """
        if self.size == 1:
            return
        parameters = list(network.get_parameters())
        values = self.broadcast_arrays([p.asnumpy() for p in parameters])
        for p, value in zip(parameters, values):
            assign_parameter(p, value)
        self.assert_equal(network)

    def average(self, parameters: list[ms.Parameter]) -> None:
        """Replace float32 parameters by their means over the ranks."""
        if self.size == 1 or not parameters:
            return
        flat = np.concatenate([p.asnumpy().ravel() for p in parameters])
        mean = self.sum(flat) / np.float32(self.size)
        start = 0
        for p in parameters:
            assign_parameter(p, mean[start : start + p.size].reshape(p.shape))
            start += p.size

    def assert_equal(self, network: nn.Cell) -> None:
        """Compare a checksum of all parameters between the ranks.

        Raises:
            RuntimeError: if parameters differ from rank 0's; lists the ranks.
        """
        digest = np.frombuffer(bytes.fromhex(checksum(network)), np.uint8)
        rows = self.gather(digest)
        different = [rank for rank in range(self.size) if not np.array_equal(rows[rank], rows[0])]
        if different:
            raise RuntimeError(f"the parameters of ranks {different} differ from those of rank 0")
