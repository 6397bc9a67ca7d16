"""A network by its name and what a command line says of it.

Nothing here imports MindSpore or MindCV at import.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from mindcv_ghost.errors import ConfigError

__all__ = ["add_model_arguments", "create_named_model", "parse_model_args"]


def add_model_arguments(parser: argparse.ArgumentParser, num_classes: int | None) -> None:
    """Add ``--in_channels``, ``--num_classes`` and ``--model_args`` to a command line."""
    parser.add_argument("--in_channels", type=int, default=3)
    parser.add_argument("--num_classes", type=int, default=num_classes)
    parser.add_argument(
        "--model_args", nargs="+", default=[], metavar="NAME=VALUE", help="for example ratio=4"
    )


def parse_model_args(pairs: Sequence[str]) -> dict[str, Any]:
    """``["ratio=4", "act=relu"]`` to keyword arguments; values are JSON, or else strings.

    >>> parse_model_args(["ratio=4", "deploy=true", "act=relu"])
    {'ratio': 4, 'deploy': True, 'act': 'relu'}
    """
    arguments: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--model_args takes name=value, for example ratio=4, not {pair!r}")
        try:
            arguments[name] = json.loads(text)
        except json.JSONDecodeError:
            arguments[name] = text
    return arguments


def create_named_model(name: str, pairs: Sequence[str] = (), **keywords: Any) -> Any:
    """Create a model of MindCV's registry.

    Args:
        name: as in ``mindcv.list_models()``.
        pairs: the ``--model_args``.
        keywords: further arguments, such as ``num_classes``.

    Raises:
        ConfigError: if there is no such model, or it can't be built with these arguments.
    """
    import mindcv

    import mindcv_ghost  # noqa: F401  (registers its models)

    if not mindcv.is_model(name):
        raise ConfigError(f"there is no model {name!r}; mindcv.list_models() names them all")
    arguments = parse_model_args(pairs)
    try:
        return mindcv.create_model(name, **keywords, **arguments)
    except (TypeError, ValueError) as problem:
        raise ConfigError(f"{name} can't be built with {arguments}: {problem}") from problem
