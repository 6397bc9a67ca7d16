"""Networks in .onnx files, run by ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindcv_ghost.errors import CheckpointError, ConfigError, first_line
from mindcv_ghost.inference.runtime import cannot_run, in_fixed_batches, read_description

__all__ = ["OnnxRuntime"]

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_ERRORS = 3  # severity: its warnings (no GPU was found, an initialiser is unused) are no help here


class OnnxRuntime:
    """See :class:`~mindcv_ghost.inference.runtime.Runtime`.

    Args:
        path: the file.
        threads: for one batch; 0: a thread a core.

    Raises:
        CheckpointError: if it isn't an ONNX file that this release of ONNX Runtime runs, or isn't a
            network from one picture to logits.
        ConfigError: if ONNX Runtime isn't installed.
    """

    def __init__(self, path: Path, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as problem:
            raise ConfigError(
                f"{path} is run by ONNX Runtime, which can't be imported ({problem}): "
                "pip install 'mindcv-ghost[onnx]'"
            ) from None
        onnxruntime.set_default_logger_severity(_ERRORS)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS
        options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as problem:  # its errors have no common class but this
            first = first_line(problem)[:300]
            raise CheckpointError(
                f"{path} can't be run by ONNX Runtime {onnxruntime.__version__}: {first}. Is it an "
                "ONNX file, whole, and no newer than this release of ONNX Runtime reads?"
            ) from None
        self.name = str(path)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.description = read_description(path, metadata)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise CheckpointError(
                f"{path} has the inputs {found or '(none)'}; a classifier of pictures has one, of "
                "four dimensions"
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._type = _TYPES[inputs[0].type]
        self.input_shape = tuple(s if isinstance(s, int) else None for s in inputs[0].shape)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Run the network; see ``Runtime``."""
        if self._type == np.uint8 != batch.dtype:
            raise CheckpointError(
                f"{self.name} takes bytes, but normalised pixels are floating-point numbers: "
                "export the network with an input of float32"
            )
        parts = in_fixed_batches(batch.astype(self._type, copy=False), self.input_shape[0])
        try:
            results = [self._session.run([self._output], {self._input: part})[0] for part in parts]
        except Exception as problem:  # its errors have no common class but this
            raise cannot_run(self.name, parts[0], problem) from problem
        return np.concatenate(results)[: len(batch)].astype(np.float32, copy=False)
