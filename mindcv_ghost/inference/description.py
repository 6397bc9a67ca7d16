"""What travels with an exported network: how to feed it, and what its outputs mean.

An .onnx file carries the description in its metadata, one entry a field, and every exported file
has it beside it as JSON (``ghost_resnet50.onnx`` and ``ghost_resnet50.json``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from mindcv_ghost.errors import DataError

__all__ = ["VERSION", "ModelDescription", "Preprocessing"]

VERSION = 1
"""Of the fields below; a reader refuses a higher one."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input: resize, crop the centre, normalise, transpose.

    Args:
        height: pixels of the network's input.
        width: likewise.
        resize: what the picture is resized to before the centre crop: the short side, or (height,
            width).
        interpolation: as the recipe's key: "bilinear", "bicubic", "nearest", "area", "pilcubic".
        channels: 3 (RGB), or 1 (grey).
        mean: of each channel, in the units of bytes (0 to 255).
        std: likewise.
    """

    height: int
    width: int
    resize: int | tuple[int, int]
    interpolation: str = "bilinear"
    channels: int = 3
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelDescription:
    """What a user of an exported file has to know.

    Args:
        model: name in MindCV's registry.
        num_classes: length of the output.
        preprocessing: None if it isn't known (a network exported without a recipe's data).
        class_names: in the order of the outputs; () where they aren't known.
        recipe: text of the recipe; "" for none.
        accuracy: of this very file, measured after it was written: ``top1`` and ``top5`` in
            percent, ``images``, ``split``; {} if there was no validation set.
        checkpoint: ``file`` (its name), ``sha256``, ``ema``; {} if there was none.
        embedded_preprocessing: the graph takes pictures (uint8, height x width x channels) and
            does the preprocessing itself.
        quantisation: how the weights were made int8, {} for float32 and float16.
        versions: of the libraries that wrote the file.
        version: of this record.
    """

    model: str
    num_classes: int
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()
    recipe: str = ""
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    embedded_preprocessing: bool = False
    quantisation: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    def to_metadata(self) -> dict[str, str]:
        """Return one text a field: as it is, or JSON for what isn't text."""
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in asdict(self).items()
        }

    def to_json(self) -> str:
        """Return the side-car's text."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], path: str) -> ModelDescription:
        """Read what :meth:`to_metadata` wrote.

        Args:
            metadata: of an .onnx file; entries of others are left alone.
            path: of the file, for messages.

        Raises:
            DataError: if the file wasn't written by this package, or by a later release of it.
        """
        texts = {name: metadata[name] for name in _NAMES if name in metadata}
        try:
            values = {n: t if n in _TEXTS else json.loads(t) for n, t in texts.items()}
        except json.JSONDecodeError as error:
            raise _unreadable(path, str(error)) from None
        return cls._from_values(values, path)

    @classmethod
    def from_json(cls, text: str, path: str) -> ModelDescription:
        """Read what :meth:`to_json` wrote; the arguments are those of :meth:`from_metadata`."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise _unreadable(path, str(error)) from None
        if not isinstance(values, dict):
            raise _unreadable(path, "it isn't an object")
        return cls._from_values({n: v for n, v in values.items() if n in _NAMES}, path)

    @classmethod
    def _from_values(cls, values: dict[str, Any], path: str) -> ModelDescription:
        version = values.get("version")
        if not isinstance(version, int):
            raise _unreadable(path, "there is none")
        if version > VERSION:
            raise DataError(
                f"{path} has a description of version {version}; this release of mindcv_ghost "
                f"reads version {VERSION}: pip install --upgrade mindcv-ghost"
            )
        try:
            if values.get("preprocessing") is not None:
                values["preprocessing"] = Preprocessing(**_tuples(values["preprocessing"]))
            return cls(**_tuples(values))
        except (TypeError, AttributeError) as error:
            raise _unreadable(path, str(error)) from None


_NAMES = tuple(f.name for f in fields(ModelDescription))
_TEXTS = ("model", "recipe")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that they were."""
    return {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}


def _unreadable(path: str, reason: str) -> DataError:
    return DataError(
        f"{path}: the description of the network (preprocessing, class names) can't be read: "
        f"{reason}. `mindcv-ghost export` writes it."
    )
