"""Open an exported file: ONNX Runtime runs .onnx, MindSpore runs .mindir."""

from __future__ import annotations

import os
from pathlib import Path

from mindcv_ghost.data.sets.paths import file_problem
from mindcv_ghost.errors import CheckpointError
from mindcv_ghost.inference.runtime import Runtime

__all__ = ["open_runtime"]


def open_runtime(path: str | os.PathLike, threads: int = 0) -> Runtime:
    """Open an exported file.

    Args:
        path: an .onnx or .mindir file.
        threads: of ONNX Runtime for one batch; 0: a thread a core.

    Raises:
        CheckpointError: if it is missing, of another kind, or can't be read.
    """
    path = Path(path)
    if path.suffix == ".ckpt":
        raise CheckpointError(
            f"{path} is a checkpoint, which has weights alone: `mindcv-ghost infer --model "
            f"{path.name} --config RECIPE` builds the network, `mindcv-ghost export` writes .onnx"
        )
    if path.suffix not in (".onnx", ".mindir"):
        raise CheckpointError(
            f"{path}: the suffix must be .onnx or .mindir; `mindcv-ghost export` writes both"
        )
    problem = file_problem(path)
    if problem:
        raise CheckpointError(f"{path} {problem}; `mindcv-ghost export` writes .onnx and .mindir")
    if path.suffix == ".mindir":
        from mindcv_ghost.inference.mindir_runtime import MindirRuntime

        return MindirRuntime(path)
    from mindcv_ghost.inference.onnx_runtime import OnnxRuntime

    return OnnxRuntime(path, threads)
