"""What a published network is: ``card.json``, for programs, and its text for people."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from mindcv_ghost.errors import CheckpointError

__all__ = ["VERSION", "Card"]

VERSION = 1
"""Of the fields below; a reader refuses a higher one."""


@dataclass(frozen=True)
class Card:
    """The facts about a published network.

    Args:
        name: what ``--pretrained`` calls it.
        model: name in MindCV's registry.
        num_classes: outputs of the classifier.
        in_channels: channels of the images.
        parameters: number of parameters that are trained.
        license: of the weights, an SPDX expression.
        accuracy: of the published file itself: ``correct``, ``correct_top5`` (or of fewer) and
            ``images``, counts; ``top1`` in percent; ``checkpoint_correct``, what the run's own
            checkpoint has.
        data: ``name``; ``dataset`` and ``val_split``, keys of the recipe; ``train_images``.
        input: of the network, as :class:`~mindcv_ghost.inference.description.Preprocessing` has it.
        training: ``recipe``, ``seed``, ``epochs``, ``commit``, ``date``, ``versions``, ...; None
            for what isn't known; ``history``, settings that changed midway; of a distilled
            network ``teacher``, with ``model``, ``args``, ``checkpoint`` (the file's name),
            ``weights`` (their digest), ``ema``, ``alpha`` and ``temperature``.
        class_names: in the order of the outputs; () where they aren't known.
        model_args: further arguments of the model.
        ghostify: how the network was made of another one; {} if it wasn't.
        dtype: of the weights in the files, "float32" or "float16".
        ema: whether they are averaged weights.
        version: of this record.
    """

    name: str
    model: str
    num_classes: int
    in_channels: int
    parameters: int
    license: str
    accuracy: Mapping[str, Any]
    data: Mapping[str, Any]
    input: Mapping[str, Any]
    training: Mapping[str, Any]
    class_names: tuple[str, ...] = ()
    model_args: Mapping[str, Any] = field(default_factory=dict)
    ghostify: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    ema: bool = False
    version: int = VERSION

    @property
    def top1(self) -> str:
        """Top-1 accuracy with its counts."""
        correct, images = self.accuracy["correct"], self.accuracy["images"]
        return f"{100 * correct / images:.2f} % ({correct:,} of {images:,} images)"

    def to_json(self) -> str:
        """Return the text of ``card.json``."""
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"
        try:
            text.encode()
        except UnicodeEncodeError:  # a class folder's name that isn't UTF-8
            text = json.dumps(asdict(self), indent=1) + "\n"
        return text

    @classmethod
    def from_json(cls, text: str, where: str) -> Card:
        """Read what :meth:`to_json` wrote.

        Args:
            text: of the file.
            where: it is from, for messages.

        Raises:
            CheckpointError: if it is something else, or of a later release of this package.
        """
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as problem:
            raise _unreadable(where, str(problem)) from None
        if not isinstance(values, dict) or type(values.get("version")) is not int:
            raise _unreadable(where, "it has no version")
        if values["version"] > VERSION:
            raise CheckpointError(
                f"{where} is of version {values['version']}, and this release of mindcv_ghost "
                f"reads version {VERSION}: pip install --upgrade mindcv-ghost"
            )
        names = {f.name for f in fields(cls)}
        try:
            card = cls(**{name: value for name, value in values.items() if name in names})
        except TypeError as problem:  # a field is missing
            raise _unreadable(where, str(problem)) from None
        wrong = card._wrong_field()
        if wrong:
            raise _unreadable(where, f"{wrong} has an illegal value")
        return replace(card, class_names=tuple(card.class_names))

    def _wrong_field(self) -> str:
        """Return the name of a field of another type; "" if there is none."""
        for name in ("name", "model", "license", "dtype"):
            if not isinstance(getattr(self, name), str):
                return name
        for name in ("num_classes", "in_channels", "parameters"):
            if not _is_count(getattr(self, name)):
                return name
        for name in ("accuracy", "data", "input", "training", "model_args", "ghostify"):
            if not isinstance(getattr(self, name), dict):
                return name
        correct, images = (self.accuracy.get(name, -1) for name in ("correct", "images"))
        if not (_is_count(correct) and _is_count(images) and correct <= images > 0):
            return "accuracy"
        texts = isinstance(self.class_names, (list, tuple)) and all(
            isinstance(name, str) for name in self.class_names
        )
        return "" if texts else "class_names"

    def to_markdown(self, files: Mapping[str, int]) -> str:
        """Return the text for people.

        Args:
            files: name -> bytes, of the weights in the folder.
        """
        accuracy, training, data = self.accuracy, self.training, self.data
        rows = [
            ("model", _code(self.model, self.model_args)),
            ("parameters", f"{self.parameters:,}"),
            ("data", _data_text(data)),
            ("classes", f"{self.num_classes}{_listed(self.class_names)}"),
            ("top-1", f"{self.top1}, split {data['val_split']}"),
            *(
                (f"top-{name[len('correct_top') :]}", f"{count:,} of {accuracy['images']:,} images")
                for name, count in accuracy.items()
                if name.startswith("correct_top")
            ),
            ("input", _input_text(self.input)),
            ("recipe", _recipe_text(training["recipe"])),
            ("started from", training["started_from"]),
            *([("teacher", _teacher_text(training["teacher"]))] if "teacher" in training else []),
            ("seed", training["seed"]),
            ("epochs", f"{training['epochs']}; these weights: {training['checkpoint']}"),
            ("settings changed", _history_text(training.get("history", []))),
            ("versions", _versions_text(training.get("versions") or {})),
            ("commit", training["commit"]),
            ("date", training["date"]),
            ("hardware", training["hardware"]),
            ("licence", self.license),
        ]
        if self.ghostify:
            rows.insert(1, ("ghostify", _code("", self.ghostify)))
        table = "\n".join(
            f"| {name} | {_cell(value)} |" for name, value in rows if value not in (None, "")
        )
        sizes = "\n".join(f"| `{name}` | {size / 1e6:,.2f} MB |" for name, size in files.items())
        return (
            f"# {self.name}: {self.model}\n\n| | |\n| --- | --- |\n{table}\n\n"
            f"## Files\n\n| | |\n| --- | --- |\n{sizes}\n\n{self._numbers()}\n\n"
            f"## Use\n\n```text\n{self._command()}\n```\n\n{self._python()}\n\n"
            "`sha256sum -c SHA256SUMS` checks the files. This text was written by `mindcv-ghost "
            "publish`; [card.json](card.json) has it for programs.\n"
        )

    def _command(self) -> str:
        """Return the command that counts the right answers again."""
        dataset, split = (
            _printable(shlex.quote(self.data[name])) for name in ("dataset", "val_split")
        )
        return (
            f"mindcv-ghost validate --pretrained FOLDER --dataset {dataset} --val_split {split} "
            "--data_dir DIR"
        )

    def _python(self) -> str:
        """Say how a program gets the network."""
        if self.ghostify:
            return (
                "The commands build this network. `create_model` can't, because it was made of "
                f"{self.model} by `ghostify`: in code, apply `mindcv_ghost.surgery.ghostify` and "
                "load `model.safetensors`."
            )
        return (
            f"```python\nfrom mindcv_ghost import create_model\n\n"
            f'network = create_model("{self.model}", pretrained="FOLDER")\n```'
        )

    def _numbers(self) -> str:
        """Say which numbers the files hold, and what rounding has cost."""
        if self.dtype == "float32":
            return "All hold the numbers of the run's checkpoint, bit for bit."
        return (
            "Weights of convolutions and linear layers are rounded to float16, the same in all "
            "files; batch norm and biases aren't. The accuracy above was measured with the rounded "
            f"weights; the run's checkpoint has {self.accuracy['checkpoint_correct']:,} right "
            "answers."
        )


def _printable(text: str) -> str:
    """Escape what isn't printable: a newline, a byte of a folder's name that isn't UTF-8, ..."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _cell(value: object) -> str:
    """Return the text of a cell of a table in Markdown."""
    return _printable(str(value)).replace("|", "\\|")


def _data_text(data: Mapping[str, Any]) -> str:
    count = data["train_images"]
    return data["name"] if count is None else f"{data['name']}, {count:,} training images"


def _recipe_text(recipe: str | None) -> str:
    return "; ".join([*([recipe] if recipe else []), "all settings: [config.yaml](config.yaml)"])


def _history_text(history: Sequence[Mapping[str, Any]]) -> str:
    """Say what was changed in the middle of the training, and when; "" if nothing was."""
    texts = []
    for change in history:
        epochs = f"{change['epoch']} epoch{'' if change['epoch'] == 1 else 's'}"
        batches = f" and {change['step']} batches" if change["step"] else ""
        texts.append(f"after {epochs}{batches}: {'; '.join(change['changes'])}")
    return ". ".join(texts)


def _versions_text(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{package} {version}" for package, version in versions.items() if version)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # a bool is an int to Python


def _code(name: str, arguments: Mapping[str, Any]) -> str:
    pairs = ", ".join(f"{key}={json.dumps(value)}" for key, value in arguments.items())
    return f"`{name} {pairs}`".replace("` ", "`") if pairs else f"`{name}`"


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:20])
    return f" ({shown}{', ...' if len(names) > 20 else ''})" if names else ""


def _input_text(values: Mapping[str, Any]) -> str:
    mean, std = (" ".join(f"{value:g}" for value in values[name]) for name in ("mean", "std"))
    resize = values["resize"]
    resized = "x".join(map(str, resize)) if isinstance(resize, (list, tuple)) else resize
    return (
        f"{values['channels']} x {values['height']} x {values['width']}, resized to {resized} "
        f"({values['interpolation']}) and cropped; mean {mean}, standard deviation {std}, of bytes"
    )


def _teacher_text(teacher: Mapping[str, Any]) -> str:
    averaged = "averaged weights of " if teacher["ema"] else ""
    return (
        f"{_code(teacher['model'], teacher['args'])} ({averaged}{teacher['checkpoint']}, digest of "
        f"the weights {teacher['weights']}); distilled with alpha {teacher['alpha']:g} and "
        f"temperature {teacher['temperature']:g}"
    )


def _unreadable(where: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{where} can't be read as the card of a published network: {reason}. "
        "`mindcv-ghost publish` writes it."
    )
