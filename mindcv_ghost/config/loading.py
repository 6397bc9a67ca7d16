"""From the command line and the recipe it names to one checked configuration."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from mindcv_ghost.config.command_line import (
    MOST_PROBLEMS,
    guessed_key,
    help_text,
    read_command_line,
)
from mindcv_ghost.config.given import Given, Wrong, shown
from mindcv_ghost.config.recipe_file import read_recipe
from mindcv_ghost.config.rules import INTERPOLATIONS, check_rules, notices_of
from mindcv_ghost.config.settings import Config
from mindcv_ghost.config.table import KEYS, RENAMED, SECTIONS
from mindcv_ghost.errors import ConfigError
from mindcv_ghost.version import __version__

__all__ = ["load_config"]


def load_config(argv: Sequence[str] | None = None, script: str = "train") -> Config:
    """Read the command line and the recipe it names.

    Precedence: command line, recipe, the recipe's ``_base_`` files, default. An option given twice
    takes its last value; ``model_args`` are merged by name through all layers.

    Args:
        argv: the command line without the program's name; None: ``sys.argv[1:]``.
        script: "train" or "validate"; training's rules don't bind validation.

    Raises:
        ConfigError: with all problems, each with its place and its remedy.
        SystemExit: with status 0, after printing help or version.
    """
    line = read_command_line(sys.argv[1:] if argv is None else argv)
    if line.wants:
        with suppress(BrokenPipeError):  # --help | head
            text = help_text(script) if line.wants == "help" else f"mindcv_ghost {__version__}"
            print(text, flush=True)
        raise SystemExit(0)
    reading = _Reading(problems=line.problems, wrong=line.meant)
    if line.config:
        recipe = read_recipe(line.config)
        reading.problems += recipe.problems
        reading.add(reading.known(recipe.entries))
    reading.add(line.entries)
    reading.settle_interpolation()
    reading.settle_start()
    reading.contradictions(script)
    if reading.problems:
        raise ConfigError(_listing(reading.problems))
    reading.notices += notices_of(reading.values, script)
    config = reading.config(line.config)
    return replace(config, notices=config.notices + _worker_notice(config))


@dataclass
class _Reading:
    """Values as layer upon layer is read, and what was found on the way.

    Attributes:
        problems: lines for the user, each with place and remedy.
        wrong: keys that no rule should speak of, because they weren't understood.
        notices: lines to log.
        values: key -> value.
        places: explicit key -> where it stands.
    """

    problems: list[str]
    wrong: set[str]
    notices: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(
        default_factory=lambda: {key.name: key.default for key in KEYS.values()}
    )
    places: dict[str, str] = field(default_factory=dict)

    def known(self, entries: dict[str, Given]) -> dict[str, Given]:
        """Keep a recipe's keys that exist; translate old ones, and report the others."""
        known = {name: given for name, given in entries.items() if name in KEYS}
        for name, given in entries.items():
            if name in KEYS:
                continue
            if name == "config":  # MindCV's own record of a run holds it
                self.notices.append(
                    f"{given.where}: config is ignored in a recipe; _base_ builds on another"
                )
            elif name in RENAMED:
                self._translate(name, given, known)
            else:
                self._unknown(name, given)
        return known

    def _unknown(self, name: str, given: Given) -> None:
        near = guessed_key(name, self.problems)
        if isinstance(given.value, dict) and any(key in KEYS for key in given.value):
            hint = "keys stand at the top level, without groups"
            self.wrong.update(given.value)
        elif near:
            hint = f"did you mean {near}?"
            self.wrong.add(near)
        else:
            hint = "--help lists all keys"
        self.problems.append(f"{given.where}: there is no key {shown(name)}; {hint}")

    def _translate(self, old: str, given: Given, known: dict[str, Given]) -> None:
        new, meanings = RENAMED[old]
        word = given.value.lower() if isinstance(given.value, str) else ""
        if word not in meanings:
            self.problems.append(f"{given.where}: {old} is true or false; today it is {new}")
        elif new in known:
            self.notices.append(f"{given.where}: {old} is ignored, {new} is set as well")
        else:
            known[new] = Given(meanings[word], given.where)
            self.notices.append(f"{given.where}: {old}: {word} is today's {new}: {meanings[word]}")

    def add(self, layer: dict[str, Given]) -> None:
        """Read a layer over those before it."""
        for name, given in layer.items():
            key = KEYS[name]
            try:
                value = key.kind.read(given)
            except Wrong as wrong:
                what = shown(given) if given.where.startswith("--") else f"{name} {shown(given)}"
                default = "" if key.default in (None, {}) else f" (default {shown(key.default)})"
                self.problems.append(f"{given.where}: {what} isn't legal; give {wrong}{default}")
                self.wrong.add(name)
                continue
            if isinstance(value, dict):
                value = {**self.values[name], **value}
            self.values[name] = value
            self.places[name] = given.where

    def settle_interpolation(self) -> None:
        """Spell the interpolation; like MindCV's, an unknown one is bilinear, but that is said."""
        asked = self.values["interpolation"]
        where = self.places.get("interpolation", "")
        if asked.lower() == "antialias":
            self.problems.append(
                f"{where}: interpolation antialias needs PIL images, which MindSpore's decoder "
                "doesn't give; give bicubic, or area to shrink large images"
            )
        elif asked.lower() not in INTERPOLATIONS:
            self.notices.append(
                f"{where}: interpolation {shown(asked)} is unknown: bilinear is used, as in "
                f"MindCV; legal are {', '.join(INTERPOLATIONS)}"
            )
        known = asked.lower() in INTERPOLATIONS
        self.values["interpolation"] = asked.lower() if known else "bilinear"

    def settle_start(self) -> None:
        """Let the command line choose between ``pretrained`` and ``ckpt_path``.

        The record of a fine-tuned run says ``pretrained: true``; validating its checkpoint by
        ``--ckpt_path`` shouldn't need ``--pretrained false`` as well. Both from one place is an
        error, see the rules.
        """
        if not (self.values["pretrained"] and self.values["ckpt_path"]):
            return
        by_option = [k for k in ("pretrained", "ckpt_path") if self.places[k].startswith("--")]
        if len(by_option) == 1:
            chosen = by_option[0]
            other = "ckpt_path" if chosen == "pretrained" else "pretrained"
            self.values[other] = KEYS[other].default
            self.notices.append(f"{self.places[other]}: {other} is ignored, --{chosen} is given")

    def contradictions(self, script: str) -> None:
        """Report keys that don't go together."""
        for keys, remedy in check_rules(self.values, script):
            if self.wrong.isdisjoint(keys):
                given = " with ".join(
                    f"{key} {shown(self.values[key])} ({self.places.get(key, 'default')})"
                    for key in keys
                )
                self.problems.append(f"{given}: {remedy}")

    def config(self, path: str) -> Config:
        """Assemble the sections."""
        sections = {
            section: cls(
                **{k.name: self.values[k.name] for k in KEYS.values() if k.section == section}
            )
            for section, cls in SECTIONS.items()
        }
        return Config(
            **sections,
            path=path,
            notices=tuple(self.notices),
            explicit=frozenset(self.places),
        )


def _listing(problems: list[str]) -> str:
    # A file's name may hold bytes that aren't UTF-8, which a log can't.
    problems = [p.encode("utf-8", "backslashreplace").decode("utf-8") for p in problems]
    problems.sort(key=_line_number)
    if len(problems) == 1:
        return problems[0]
    lines = [f"{len(problems)} problems in the configuration:"]
    lines += [f"  {i}. {text}" for i, text in enumerate(problems[:MOST_PROBLEMS], 1)]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"  ... and {len(problems) - MOST_PROBLEMS} more")
    return "\n".join(lines)


def _line_number(problem: str) -> tuple[str, int]:
    """Sort a file's problems by line; the command line's come first, as they were found."""
    found = re.match(r"(.+?):(\d+): ", problem)
    return (found[1], int(found[2])) if found else ("", 0)


def _worker_notice(config: Config) -> tuple[str, ...]:
    asked = config.dataset.num_parallel_workers
    if asked is None or asked <= config.workers:
        return ()
    cores = f"{config.workers} core" + ("s" if config.workers > 1 else "")
    return (f"num_parallel_workers {asked} -> {config.workers}: this process has {cores}",)
