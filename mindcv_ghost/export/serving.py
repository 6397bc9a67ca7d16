"""What inference servers need beside an exported .onnx file: a model repository.

The layout is NVIDIA Triton's (MODEL/config.pbtxt, MODEL/1/model.onnx). OpenVINO Model Server and
others take the same folders. Triton's schema is ``model_config.proto`` in its repository `common`.
"""

from __future__ import annotations

import json
from pathlib import Path

from mindcv_ghost.errors import DataError, UserError
from mindcv_ghost.export.onnx_facts import OnnxFacts, TensorFacts, read_facts
from mindcv_ghost.storage.atomic_file import write_bytes, write_text

__all__ = ["write_triton_repository"]

_LABELS = "labels.txt"
_MAX_BATCH = 32
# How long a request waits for others to share its batch.
_MAX_DELAY_US = 1000
# ONNX's names of types -> Triton's.
_TYPES = {"FLOAT": "TYPE_FP32", "FLOAT16": "TYPE_FP16", "UINT8": "TYPE_UINT8"}


def write_triton_repository(folder: Path, onnx_path: Path) -> None:
    """Write a model repository that NVIDIA Triton serves: ``tritonserver --model-repository``.

    Args:
        folder: the repository; created if it doesn't exist. It gets the network in a folder of the
            model's name, as version 1, which replaces an older one. Other models are left alone.
        onnx_path: a file that export has written.

    Raises:
        DataError: if the file isn't one that export has written.
        UserError: if the folder can't be written.
    """
    exported = read_facts(onnx_path)
    description = exported.description
    model = folder / description.model
    try:
        (model / "1").mkdir(parents=True, exist_ok=True)
        write_bytes(model / "1" / "model.onnx", exported.path.read_bytes())
        if description.class_names:
            labels = [" ".join(name.split()) for name in description.class_names]
            write_text(model / _LABELS, "\n".join(labels) + "\n")
        write_text(model / f"{description.model}.json", description.to_json())
        _write_config(model / "config.pbtxt", _config(exported))
    except OSError as error:
        raise UserError(
            f"the model repository can't be written to {folder}: {error.strerror or error}. Give "
            "a folder that can be written to."
        ) from None


def _write_config(path: Path, text: str) -> None:
    """Write the configuration; one that differs, maybe by its owner's hand, is kept as a copy.

    An older copy stays: it may be the one that was changed by hand.
    """
    copy = path.with_name(f"{path.name}.old")
    if path.is_file() and not copy.exists():
        old = path.read_bytes()
        if old != text.encode():
            write_bytes(copy, old)
    write_text(path, text)


def _config(exported: OnnxFacts) -> str:
    """Return the text of config.pbtxt, a ``ModelConfig`` in protobuf's text format."""
    description = exported.description
    # Triton puts requests together only along a free first dimension.
    batched = exported.input.dims[:1] == exported.output.dims[:1] == (-1,)
    layout = "FORMAT_NHWC" if description.embedded_preprocessing else "FORMAT_NCHW"
    labels = [f"label_filename: {json.dumps(_LABELS)}"] if description.class_names else []
    lines = [
        f"name: {json.dumps(description.model)}",
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {_MAX_BATCH if batched else 0}",
        *_tensor("input", exported.input, batched, [f"format: {layout}"]),
        *_tensor("output", exported.output, batched, labels),
        # On each GPU if there is one, else on the CPU.
        "instance_group [ { kind: KIND_AUTO count: 1 } ]",
    ]
    if batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_MAX_DELAY_US} }}")
    return "\n".join(lines) + "\n"


def _tensor(field: str, facts: TensorFacts, batched: bool, more: list[str]) -> list[str]:
    if facts.data_type not in _TYPES:
        raise DataError(
            f"the {field} {facts.name} has the type {facts.data_type}; an exported network has one "
            f"of {', '.join(_TYPES)}"
        )
    dims = facts.dims[1:] if batched else facts.dims
    # Triton counts the batch as a dimension of a format.
    rows = [
        f"name: {json.dumps(facts.name)}",
        f"data_type: {_TYPES[facts.data_type]}",
        f"dims: [ {', '.join(map(str, dims))} ]",
        *(row for row in more if len(dims) == 3 or not row.startswith("format")),
    ]
    return [f"{field} [", "  {", *(f"    {row}" for row in rows), "  }", "]"]
