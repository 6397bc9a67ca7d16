"""A description becomes part of a file that has been written and checked.

Protobuf merges what is appended to a message into it when it is read. So the graph and the weights
are neither parsed nor written again, and stay, byte for byte, those that were checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mindspore.train import mind_ir_pb2

__all__ = ["add_metadata"]


def add_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add texts to an .onnx file's ``metadata_props``, or to a .mindir file's ``user_info``.

    Args:
        path: of the file; it has no such entries yet.
        metadata: one text a name.

    Raises:
        OSError: if the disk rejects the data.
    """
    if path.suffix == ".mindir":
        message = mind_ir_pb2.ModelProto()
        for name, text in metadata.items():
            if hasattr(message.user_info, "add"):  # how protobuf 7 reads MindSpore 2.8's maps
                message.user_info.add(key=name, value=text)
            else:
                message.user_info[name] = text
    else:
        import onnx

        message = onnx.ModelProto()
        onnx.helper.set_model_props(message, dict(metadata))
    with open(path, "ab") as file:
        file.write(message.SerializeToString())
