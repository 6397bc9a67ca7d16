"""Networks in .mindir files, run by MindSpore."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from mindcv_ghost.errors import CheckpointError, ConfigError, first_line
from mindcv_ghost.inference.runtime import cannot_run, in_fixed_batches, read_description

__all__ = ["MindirRuntime"]


class MindirRuntime:
    """See :class:`~mindcv_ghost.inference.runtime.Runtime`.

    Args:
        path: the file.

    Raises:
        CheckpointError: if it isn't a MindIR file.
        ConfigError: if MindSpore isn't installed.
    """

    def __init__(self, path: Path) -> None:
        os.environ.setdefault("GLOG_v", "3")  # before MindSpore is imported: errors alone
        try:
            import mindspore as ms
            from mindspore.train import mind_ir_pb2
        except (ImportError, TypeError) as problem:
            # TypeError: onnx was imported before, with protobuf's implementation in C.
            raise ConfigError(
                f"{path} is run by MindSpore, which can't be imported ({first_line(problem)}): "
                "pip install 'mindcv-ghost[cpu]', import mindspore before onnx, or export to .onnx"
            ) from None
        model = mind_ir_pb2.ModelProto()
        try:
            model.ParseFromString(path.read_bytes())
            self.input_shape = tuple(
                size if size > 0 else None for size in model.graph.input[0].tensor[0].dims
            )
            self._graph = ms.nn.GraphCell(ms.load(str(path)))
        except Exception as problem:  # protobuf's and MindSpore's errors have no other common class
            raise CheckpointError(
                f"{path} isn't a whole MindIR file: {first_line(problem)[:300]}"
            ) from None
        self.name = str(path)
        self.description = read_description(path, _user_info(model))
        self._tensor, self._lock = ms.Tensor, threading.Lock()

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the network; see ``Runtime``. Calls wait for each other: a cell isn't thread-safe."""
        parts = in_fixed_batches(np.ascontiguousarray(batch), self.input_shape[0])
        with self._lock:
            try:
                results = [self._graph(self._tensor(part)).asnumpy() for part in parts]
            except (RuntimeError, ValueError, TypeError) as problem:
                raise cannot_run(self.name, parts[0], problem) from problem
        return np.concatenate(results)[: len(batch)].astype(np.float32, copy=False)


def _user_info(model: Any) -> dict[str, str]:
    info = model.user_info
    if hasattr(info, "items"):
        return dict(info)
    return {entry.key: entry.value for entry in info}  # how protobuf 7 reads MindSpore 2.8's maps
