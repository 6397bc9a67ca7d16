"""Read the command line: the raw value of each key. Also the text of ``--help``.

argparse isn't used: it stops at the first problem, accepts abbreviations, and doesn't take a list
both as ``0.08 1.0`` and as ``0.08,1.0``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mindcv_ghost.config.keys import KEYS, SCRIPT_SECTIONS, SECTIONS, Key, keys_of
from mindcv_ghost.config.raw_value import RawValue, quoted
from mindcv_ghost.config.value_types import KeywordArguments, Nullable
from mindcv_ghost.errors import near_names
from mindcv_ghost.program import program

__all__ = [
    "MAX_PROBLEMS",
    "CommandLine",
    "default_text",
    "help_text",
    "nearest_key",
    "read_command_line",
]

MAX_PROBLEMS = 50
"""How many problems a message lists."""

_MAX_WORDS = 10_000
_NUMBER = re.compile(r"-(\d|\.\d)|-\.?(inf|nan)", re.IGNORECASE)
# Other programs' names of keys. They aren't accepted, but the message names the key.
_FOREIGN_NAMES = {
    **{"epochs": "epoch_size", "num_epochs": "epoch_size", "learning_rate": "lr"},
    **{"workers": "num_parallel_workers", "num_workers": "num_parallel_workers"},
    **{"optimizer": "opt", "wd": "weight_decay", "arch": "model"},
    **{"checkpoint": "ckpt_path", "ckpt": "ckpt_path", "weights": "ckpt_path"},
    **{"output": "ckpt_save_dir", "output_dir": "ckpt_save_dir", "save_dir": "ckpt_save_dir"},
    **{"device": "device_target", "smoothing": "label_smoothing", "img_size": "image_resize"},
    **{"image_size": "image_resize", "size": "image_resize", "data": "data_dir"},
    **{"data_path": "data_dir", "model_name": "model", "sched": "scheduler", "bs": "batch_size"},
    **{"batch": "batch_size", "drop": "drop_rate", "drop_path": "drop_path_rate"},
    **{"amp": "amp_level", "clip": "clip_grad", "milestones": "multi_step_decay_milestones"},
}


@dataclass
class CommandLine:
    """The options of a command line.

    Attributes:
        values: key -> its raw value; the last one if an option is repeated.
        config: the recipe file, or "".
        print_only: "help" or "version" if that was asked for, else "".
        problems: lines for the user, each with its option.
        misspelt: keys that a misspelt option probably stands for.
    """

    values: dict[str, RawValue] = field(default_factory=dict)
    config: str = ""
    print_only: str = ""
    problems: list[str] = field(default_factory=list)
    misspelt: set[str] = field(default_factory=set)


def nearest_key(name: str, problems: Sequence[str] = (), keys: Mapping[str, Key] = KEYS) -> str:
    """Return the key that a misspelt name probably stands for, or "".

    Args:
        name: what was given.
        problems: the problems so far. If they are more than a message lists, the search is
            left out: it takes 0.3 ms, and 150,000 unknown options took 8.5 s.
        keys: the legal names.

    >>> nearest_key("weigth_decay"), nearest_key("batch"), nearest_key("epochs")
    ('weight_decay', 'batch_size', 'epoch_size')
    """
    if len(problems) >= MAX_PROBLEMS:
        return ""
    name = name[:100].strip().lower().replace("-", "_")
    if name in keys:
        return name
    if name in _FOREIGN_NAMES:
        return _FOREIGN_NAMES[name]
    near = near_names(name, [*keys, "_base_"])
    if near:
        return near[0]
    starts = [key for key in keys if name and key.startswith(name)]
    return starts[0] if starts else ""


def read_command_line(argv: Sequence[str], keys: Mapping[str, Key] = KEYS) -> CommandLine:
    """Read ``--key value``, ``--key=value``, booleans without a value, and lists of words.

    Args:
        argv: the command line without the program's name.
        keys: the legal options, by name.
    """
    line = CommandLine()
    words = list(argv)
    if len(words) > _MAX_WORDS:
        line.problems.append(
            f"the command line has {len(words):,} words, more than {_MAX_WORDS:,}; a recipe "
            "(--config FILE) can say more"
        )
        return line
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("-h", "--help"):
            line.print_only = line.print_only or "help"
        elif name == "--version":
            line.print_only = line.print_only or "version"
        elif name in ("-c", "--config"):
            values = [value] if equals else _take_values(words, several=False)
            if values and values[0]:
                line.config = values[0]
            else:
                line.problems.append(
                    f"{name}: needs a YAML file, or a name that `{program('recipes')}` lists"
                )
        elif name.startswith("--"):
            _read_option(line, name, [value] if equals else None, words, keys)
        else:
            line.problems.append(_stray_word(word, line.problems, keys))
    return line


def _read_option(
    line: CommandLine,
    name: str,
    values: list[str] | None,
    words: list[str],
    keys: Mapping[str, Key],
) -> None:
    """Add an option to ``line``; take its values from ``words`` unless it was ``--key=value``."""
    key = name[2:].replace("-", "_")
    if key not in keys:
        if values is None:
            _take_values(words, several=True)
        near = nearest_key(key, line.problems, keys)
        if key.startswith("no_") and key[3:] in keys and keys[key[3:]].type.is_flag:
            hint = f"; write --{key[3:]} false"
        elif near in keys:
            hint = f"; did you mean --{near}?"
            line.misspelt.add(near)
        else:
            hint = "; --help lists all options"
        line.problems.append(f"{quoted(name)}: there is no such option{hint}")
        return
    value_type = keys[key].type
    option = f"--{key}"
    if values is None:
        values = _take_values(words, value_type.takes_list)
        if not values and value_type.is_flag:
            values = ["true"]
        elif not values:
            line.problems.append(f"{option}: needs a value: {value_type.legal}")
            return
    if isinstance(value_type, KeywordArguments):
        arguments = [RawValue(value, option) for value in values]
        before = line.values[key].value if key in line.values else []
        if isinstance(before, list):  # a repeated option adds arguments
            arguments = [*before, *arguments]
        line.values[key] = RawValue(arguments, option)
    else:  # [0.08, 1.0] may come as two words
        line.values[key] = RawValue(" ".join(values), option)


def _take_values(words: list[str], several: bool) -> list[str]:
    """Remove and return an option's values: the next word, or all up to the next option."""
    taken: list[str] = []
    while words and (several or not taken):
        if words[0].startswith("-") and len(words[0]) > 1 and not _NUMBER.match(words[0]):
            break
        taken.append(words.pop(0))
    return taken


def _stray_word(word: str, problems: Sequence[str], keys: Mapping[str, Key]) -> str:
    text = quoted(word)
    if word.startswith("-") and len(word) > 1:
        near = nearest_key(word.lstrip("-"), problems, keys) if len(word) > 2 else ""
        return f"{text}: an option starts with two dashes" + (f": --{near}?" if near else "")
    key, equals, _ = word.partition("=")
    if equals and key in keys:
        return f"{text}: an option starts with two dashes: --{key}=..."
    return f"{text}: this word belongs to no option (text with spaces needs quotes)"


def help_text(script: str) -> str:
    """Return what ``--help`` prints.

    Args:
        script: "train", "validate" or "export".
    """
    lines = [
        f"usage: {program(script)} [--config RECIPE] [--key value ...]",
        "",
        "The command line overrides the recipe, and the recipe overrides the defaults. Lists are",
        "written as --scale 0.08 1.0, booleans as --ema true, no value as null. A recipe may start",
        "with _base_: other.yaml and set only the keys that differ.",
        "",
        f"  {'-c, --config RECIPE':<32}YAML file, or a name that `{program('recipes')}` lists",
        f"  {'-h, --help':<32}print this",
        f"  {'--version':<32}print the version",
    ]
    for section in (*SCRIPT_SECTIONS.get(script, ()), *SECTIONS):
        lines += ["", f"{section}:"]
        for key in keys_of(script).values():
            if key.section != section:
                continue
            text = f"{key.help}: {key.type.legal} (default {default_text(key)})"
            first, *rest = textwrap.wrap(text, 66, break_on_hyphens=False)
            lines.append(f"  --{key.name:<30}{first}")
            lines += [f"{'':<34}{part}" for part in rest]
    return "\n".join(lines)


def default_text(key: Key) -> str:
    """Return a key's default as a recipe would have it."""
    if key.default is None and isinstance(key.type, Nullable):
        return key.type.word
    return quoted(key.default)
