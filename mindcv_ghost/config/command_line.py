"""The command line: words to what was given for which key, and ``--help``.

Not argparse: it stops at the first problem, takes abbreviations, and knows no list that is either
``0.08 1.0`` or ``0.08,1.0``.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from mindcv_ghost.config.given import Given, shown
from mindcv_ghost.config.kinds import Nullable
from mindcv_ghost.config.mapping import Mapping
from mindcv_ghost.config.table import KEYS, SECTIONS, Key

__all__ = [
    "MAX_WORDS",
    "MOST_PROBLEMS",
    "CommandLine",
    "guessed_key",
    "help_text",
    "read_command_line",
]

MAX_WORDS = 10_000  # 150,000 unknown options took 8.5 s to name the nearest of each
MOST_PROBLEMS = 50  # that a message lists
_NUMBER = re.compile(r"-(\d|\.\d)|-\.?(inf|nan)", re.IGNORECASE)
# What other programs call these keys; not accepted, but named.
_ELSEWHERE = {
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
    """What the command line says.

    Attributes:
        entries: key -> what was given for it, the last one if it was given twice.
        config: the recipe file, or "".
        wants: "help", "version" or "".
        problems: lines that say which option is wrong, and why.
        meant: keys that misspelt options come near to.
    """

    entries: dict[str, Given] = field(default_factory=dict)
    config: str = ""
    wants: str = ""
    problems: list[str] = field(default_factory=list)
    meant: set[str] = field(default_factory=set)


def nearest_key(name: str) -> str:
    """Guess which key was meant; "" if nothing comes near.

    >>> nearest_key("weigth_decay"), nearest_key("batch"), nearest_key("epochs")
    ('weight_decay', 'batch_size', 'epoch_size')
    """
    import difflib

    name = name[:100].strip().lower().replace("-", "_")
    if name in KEYS:
        return name
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    near = difflib.get_close_matches(name, [*KEYS, "_base_"], n=1, cutoff=0.6)
    if near:
        return near[0]
    starts = [key for key in KEYS if name and key.startswith(name)]
    return starts[0] if starts else ""


def guessed_key(name: str, problems: Sequence[str]) -> str:
    """``nearest_key``, or "" once there are as many problems as are listed: it takes 0.3 ms."""
    return nearest_key(name) if len(problems) < MOST_PROBLEMS else ""


def read_command_line(argv: Sequence[str]) -> CommandLine:
    """Read ``--key value``, ``--key=value``, bare booleans and lists of words."""
    line = CommandLine()
    words = list(argv)
    if len(words) > MAX_WORDS:
        line.problems.append(
            f"the command line has {len(words):,} words, more than {MAX_WORDS:,}; a recipe "
            "(--config FILE) can say more"
        )
        return line
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name in ("-h", "--help"):
            line.wants = line.wants or "help"
        elif name == "--version":
            line.wants = line.wants or "version"
        elif name in ("-c", "--config"):
            values = [value] if equals else _take(words, many=False)
            if values and values[0]:
                line.config = values[0]
            else:
                line.problems.append(f"{name}: needs a YAML file")
        elif name.startswith("--"):
            _option(line, name, [value] if equals else None, words)
        else:
            line.problems.append(_stray(word, line.problems))
    return line


def _option(line: CommandLine, name: str, values: list[str] | None, words: list[str]) -> None:
    """Add one option; ``values`` is None unless it came as ``--key=value``."""
    key = name[2:].replace("-", "_")
    if key not in KEYS:
        if values is None:
            _take(words, many=True)
        near = guessed_key(key, line.problems)
        if key.startswith("no_") and key[3:] in KEYS and KEYS[key[3:]].kind.flag:
            hint = f"; write --{key[3:]} false"
        elif near in KEYS:
            hint = f"; did you mean --{near}?"
            line.meant.add(near)
        else:
            hint = "; --help lists them all"
        line.problems.append(f"{shown(name)}: there is no such option{hint}")
        return
    kind = KEYS[key].kind
    option = f"--{key}"
    if values is None:
        values = _take(words, kind.many)
        if not values and kind.flag:
            values = ["true"]
        elif not values:
            line.problems.append(f"{option}: needs a value: {kind.legal}")
            return
    if isinstance(kind, Mapping):
        given = Given([Given(value, option) for value in values], option)
    else:  # [0.08, 1.0] may come as two words
        given = Given(" ".join(values), option)
    before = line.entries.get(key)
    if before is not None and isinstance(kind, Mapping):
        given = Given([*before.value, *given.value], option)
    line.entries[key] = given


def _take(words: list[str], many: bool) -> list[str]:
    """Take the values that follow an option: one, or all up to the next option."""
    taken: list[str] = []
    while words and (many or not taken):
        if words[0].startswith("-") and len(words[0]) > 1 and not _NUMBER.match(words[0]):
            break
        taken.append(words.pop(0))
    return taken


def _stray(word: str, problems: Sequence[str]) -> str:
    text = shown(word)
    if word.startswith("-") and len(word) > 1:
        near = guessed_key(word.lstrip("-"), problems) if len(word) > 2 else ""
        return f"{text}: options start with two dashes" + (f": --{near}?" if near else "")
    key, equals, _ = word.partition("=")
    if equals and key in KEYS:
        return f"{text}: options start with two dashes: --{key}=..."
    return f"{text}: belongs to no option (a text with spaces needs quotes)"


def help_text(script: str) -> str:
    """Compose what ``--help`` prints."""
    lines = [
        f"usage: {script}.py [--config RECIPE.yaml] [--key value ...]",
        "",
        "The command line outweighs the recipe, the recipe the defaults. Lists are written as",
        "--scale 0.08 1.0, booleans as --ema true, 'nothing' as null. A recipe may start with",
        "_base_: other.yaml and state only what differs.",
        "",
        f"  {'-c, --config FILE':<32}recipe (YAML)",
        f"  {'-h, --help':<32}print this",
        f"  {'--version':<32}print the version",
    ]
    for section in SECTIONS:
        lines += ["", f"{section}:"]
        for key in KEYS.values():
            if key.section != section:
                continue
            text = f"{key.help}: {key.kind.legal} (default {_default(key)})"
            first, *rest = textwrap.wrap(text, 66, break_on_hyphens=False)
            lines.append(f"  --{key.name:<30}{first}")
            lines += [f"{'':<34}{part}" for part in rest]
    return "\n".join(lines)


def _default(key: Key) -> str:
    if key.default is None and isinstance(key.kind, Nullable):
        return key.kind.word
    return shown(key.default)
