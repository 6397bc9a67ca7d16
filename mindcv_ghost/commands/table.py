"""The table of subcommands."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMANDS", "Command"]


class Command(NamedTuple):
    """A subcommand of ``mindcv-ghost``.

    Args:
        line: what it does, for ``--help``.
        module: has ``main(argv) -> status``; imported only when the subcommand runs.
        launched: whether it runs as what the launcher made of the process: a single process, a rank
            of several, or msrun's scheduler.
        keys: whether ``--config`` and all keys of recipes are options of it, and those that
            ``config.keys_of`` lists for its name.
    """

    line: str
    module: str
    launched: bool = False
    keys: bool = False


COMMANDS = {
    "train": Command("train a model by a recipe", "mindcv_ghost.commands.train", True, True),
    "validate": Command(
        "top-1 and top-5 of a checkpoint", "mindcv_ghost.commands.validate", True, True
    ),
    "export": Command(
        "an ONNX or MindIR file of a checkpoint", "mindcv_ghost.commands.export", True, True
    ),
    "infer": Command("classify images by an exported network", "mindcv_ghost.commands.infer"),
    "publish": Command(
        "a folder of weights and their card, of a finished run",
        "mindcv_ghost.commands.publish",
        launched=True,
    ),
    "weights": Command(
        "list the weights that come with this package", "mindcv_ghost.commands.weights"
    ),
    "recipes": Command("list, print or copy the recipes", "mindcv_ghost.commands.recipes"),
    "doctor": Command("check this machine", "mindcv_ghost.doctor.__main__", keys=True),
    "convert": Command("weights from PyTorch, and to it", "mindcv_ghost.convert.__main__"),
    "ghostify": Command("put Ghost modules into any model", "mindcv_ghost.commands.ghostify"),
    "complexity": Command(
        "parameters, multiply-adds and memory of models", "mindcv_ghost.analysis.complexity"
    ),
    "redundancy": Command(
        "which feature maps of a model are alike", "mindcv_ghost.analysis.redundancy.__main__"
    ),
    "completion": Command("completion for bash, zsh or fish", "mindcv_ghost.commands.completion"),
}
