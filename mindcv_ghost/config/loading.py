"""Combine defaults, recipe and command line into one checked :class:`Config`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from mindcv_ghost.config.command_line import (
    MAX_PROBLEMS,
    help_text,
    nearest_key,
    read_command_line,
)
from mindcv_ghost.config.config import Config
from mindcv_ghost.config.keys import KEYS, RENAMED, SCRIPT_SECTIONS, SECTIONS, Key, keys_of
from mindcv_ghost.config.raw_value import IllegalValue, RawValue, quoted
from mindcv_ghost.config.recipe import read_recipe
from mindcv_ghost.config.rules import INTERPOLATIONS, check_rules, notices_of
from mindcv_ghost.config.shipped import recipe_path
from mindcv_ghost.config.value_types import KeywordArguments
from mindcv_ghost.errors import CheckpointError, ConfigError
from mindcv_ghost.version import __version__

__all__ = ["load_config"]

# What the weights of a network need: its structure, and what validation does to an image.
_OF_WEIGHTS = (
    *("model", "num_classes", "in_channels", "model_args", "ghostify"),
    *("image_resize", "interpolation", "crop_pct", "mean", "std"),
)


def load_config(
    argv: Sequence[str] | None = None, script: str = "train", weights_recipe: str = ""
) -> Config:
    """Load the recipe that the command line names, and the command line's own options.

    ``--config`` takes a file, or the name of a recipe that comes with this package.

    The command line overrides the recipe, the recipe its ``_base_`` files, and these the defaults.
    Of a repeated option the last value counts. ``model_args`` are merged by name instead.

    Args:
        argv: the command line without the program's name; None: ``sys.argv[1:]``.
        script: "train", "validate" or "export"; it decides which options there are, and which
            rules apply.
        weights_recipe: the recipe that published weights were trained by. Its network and its
            preprocessing are the defaults; nothing else of it is read, and no other file.

    Raises:
        ConfigError: lists all problems, each with its place and its remedy.
        CheckpointError: if ``weights_recipe`` can't be read, or isn't a recipe.
        SystemExit: with status 0, after printing help or version.
    """
    keys = keys_of(script)
    line = read_command_line(sys.argv[1:] if argv is None else argv, keys)
    if line.print_only:
        with suppress(BrokenPipeError):  # --help | head
            text = help_text(script) if line.print_only == "help" else f"mindcv_ghost {__version__}"
            print(text, flush=True)
        raise SystemExit(0)
    builder = _Builder(line.problems, line.misspelt, keys)
    if weights_recipe:
        builder.take_network(weights_recipe)
    if line.config:
        line.config = recipe_path(line.config)
        recipe = read_recipe(line.config)
        builder.problems += recipe.problems
        builder.override(builder.current_keys(recipe.values))
    builder.override(line.values)
    builder.resolve_interpolation()
    builder.resolve_weights(script)
    builder.check_rules(script)
    if builder.problems:
        raise ConfigError(_message(builder.problems))
    builder.notices += notices_of(builder.values, script)
    config = builder.build(line.config, script)
    return replace(config, notices=config.notices + _workers_notice(config))


@dataclass
class _Builder:
    """Starts with the defaults; recipe and command line override them in turn.

    Attributes:
        problems: lines for the user, each with its place and its remedy.
        failed: keys whose value couldn't be read; rules about them aren't checked.
        keys: all that can be set; a recipe can set only ``KEYS``.
        notices: lines to log.
        values: key -> value.
        places: key that was set -> where.
    """

    problems: list[str]
    failed: set[str]
    keys: dict[str, Key]
    notices: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(init=False)
    places: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.values = {name: key.default for name, key in self.keys.items()}

    def take_network(self, path: str) -> None:
        """Take the network and its preprocessing from the recipe of published weights.

        Raises:
            CheckpointError: if it can't be read, or isn't what was published.
        """
        recipe = read_recipe(path, "pretrained", with_bases=False)
        before = len(self.problems)
        self.override({k: recipe.values[k] for k in _OF_WEIGHTS if k in recipe.values})
        problems = recipe.problems + self.problems[before:]
        if problems:
            raise CheckpointError(
                f"{path} isn't a recipe that `mindcv-ghost publish` wrote: {_message(problems)}"
            )

    def current_keys(self, values: dict[str, RawValue]) -> dict[str, RawValue]:
        """Return a recipe's values by current keys; renamed keys are translated.

        Keys that don't exist become problems.
        """
        known = {name: raw for name, raw in values.items() if name in KEYS}
        for name, raw in values.items():
            if name in KEYS:
                continue
            if name == "config":  # MindCV writes it into its record of a run
                self.notices.append(
                    f"{raw.where}: config is ignored in a recipe; _base_ builds on another"
                )
            elif name in RENAMED:
                self._translate(name, raw, known)
            else:
                self._report_unknown(name, raw)
        return known

    def _report_unknown(self, name: str, raw: RawValue) -> None:
        near = nearest_key(name, self.problems)
        if isinstance(raw.value, dict) and any(key in KEYS for key in raw.value):
            hint = "keys belong at the top level, not into groups"
            self.failed.update(raw.value)
        elif near:
            hint = f"did you mean {near}?"
            self.failed.add(near)
        else:
            hint = "--help lists all keys"
        self.problems.append(f"{raw.where}: there is no key {quoted(name)}; {hint}")

    def _translate(self, old: str, raw: RawValue, known: dict[str, RawValue]) -> None:
        new, meanings = RENAMED[old]
        word = raw.value.lower() if isinstance(raw.value, str) else ""
        if word not in meanings:
            self.problems.append(f"{raw.where}: {old} is true or false; today it is {new}")
        elif new in known:
            self.notices.append(f"{raw.where}: {old} is ignored, {new} is set as well")
        else:
            known[new] = RawValue(meanings[word], raw.where)
            self.notices.append(f"{raw.where}: {old}: {word} is today's {new}: {meanings[word]}")

    def override(self, values: dict[str, RawValue]) -> None:
        """Parse values and let them override those before; illegal ones become problems."""
        for name, raw in values.items():
            key = self.keys[name]
            try:
                value = key.type.parse(raw)
            except IllegalValue as illegal:
                what = quoted(raw) if raw.where.startswith("--") else f"{name} {quoted(raw)}"
                default = "" if key.default in (None, {}) else f" (default {quoted(key.default)})"
                self.problems.append(f"{raw.where}: {what} isn't legal; give {illegal}{default}")
                self.failed.add(name)
                continue
            if isinstance(key.type, KeywordArguments) and not key.type.is_none(raw):
                value = {**self.values[name], **value}
            self.values[name] = value
            self.places[name] = raw.where

    def resolve_interpolation(self) -> None:
        """Write the interpolation in lower case. As in MindCV an unknown one becomes bilinear."""
        asked = self.values["interpolation"]
        where = self.places.get("interpolation", "")
        if asked.lower() == "antialias":
            self.problems.append(
                f"{where}: interpolation antialias needs PIL images, which MindSpore's decoder "
                "doesn't give; give bicubic, or area to shrink large images"
            )
        elif asked.lower() not in INTERPOLATIONS:
            self.notices.append(
                f"{where}: interpolation {quoted(asked)} is unknown: bilinear is used, as in "
                f"MindCV; legal are {', '.join(INTERPOLATIONS)}"
            )
        known = asked.lower() in INTERPOLATIONS
        self.values["interpolation"] = asked.lower() if known else "bilinear"

    def resolve_weights(self, script: str) -> None:
        """Let the command line choose between ``pretrained``, ``ckpt_path`` and ``onnx``.

        The saved configuration of a fine-tuned run has ``pretrained: true``. Validating its
        checkpoint with ``--ckpt_path`` shouldn't need ``--pretrained false`` as well. If recipe or
        command line set two of them, it is an error (rules.py).

        ``reset_head`` is for a training alone, which a recipe may have it for: a random classifier
        has nothing to validate.
        """
        if script != "train":
            self.values["reset_head"] = False
        keys = ("pretrained", "ckpt_path") + (("onnx",) if script == "validate" else ())
        given = [key for key in keys if self.values[key]]
        by_option = [key for key in given if self.places[key].startswith("--")]
        if len(by_option) != 1:
            return
        for other in given:
            if other != by_option[0]:
                self.values[other] = KEYS[other].default
                self.notices.append(
                    f"{self.places[other]}: {other} is ignored, --{by_option[0]} is given"
                )

    def check_rules(self, script: str) -> None:
        """Add a problem for each contradiction between keys."""
        for keys, remedy in check_rules(self.values, script):
            if self.failed.isdisjoint(keys):
                found = " with ".join(
                    f"{key} {quoted(self.values[key])} ({self.places.get(key, 'default')})"
                    for key in keys
                )
                self.problems.append(f"{found}: {remedy}")

    def build(self, path: str, script: str) -> Config:
        """Return the configuration; ``path`` is the recipe's."""
        sections = {
            section: cls(
                **{k.name: self.values[k.name] for k in self.keys.values() if k.section == section}
            )
            for section, cls in {**SECTIONS, **SCRIPT_SECTIONS.get(script, {})}.items()
        }
        return Config(
            **sections,
            path=path,
            notices=tuple(self.notices),
            explicit=frozenset(self.places),
            given=frozenset(k for k, place in self.places.items() if place.startswith("--")),
        )


def _message(problems: list[str]) -> str:
    # A file's name may contain bytes that aren't UTF-8, which can't be logged.
    problems = [p.encode("utf-8", "backslashreplace").decode("utf-8") for p in problems]
    problems.sort(key=_line_number)
    if len(problems) == 1:
        return problems[0]
    lines = [f"{len(problems)} problems in the configuration:"]
    lines += [f"  {i}. {text}" for i, text in enumerate(problems[:MAX_PROBLEMS], 1)]
    if len(problems) > MAX_PROBLEMS:
        lines.append(f"  ... and {len(problems) - MAX_PROBLEMS} more")
    return "\n".join(lines)


def _line_number(problem: str) -> tuple[str, int]:
    """Sort key: problems of the command line first, in their order, then a file's by line."""
    found = re.match(r"(.+?):(\d+): ", problem)
    return (found[1], int(found[2])) if found else ("", 0)


def _workers_notice(config: Config) -> tuple[str, ...]:
    asked = config.dataset.num_parallel_workers
    if asked is None or asked <= config.workers:
        return ()
    cores = f"{config.workers} core" + ("s" if config.workers > 1 else "")
    return (f"num_parallel_workers {asked} -> {config.workers}: this process has {cores}",)
