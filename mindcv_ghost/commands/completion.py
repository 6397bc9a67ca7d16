"""``mindcv-ghost completion SHELL``: print the completion script for bash, zsh or fish.

The words are in the script, so that completing starts no Python. They are collected without
importing MindSpore or MindCV: keys from the table of keys, models and the other commands' options
from the source text.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.config.keys import SCRIPT_SECTIONS, keys_of
from mindcv_ghost.config.shipped import list_recipes
from mindcv_ghost.doctor.options import DOCTORS_OPTIONS
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.program import program

__all__ = ["SHELLS", "main", "model_names", "options_of"]

_PACKAGE = Path(__file__).resolve().parents[1]
# A function that adds options which several commands have -> where it is.
_SHARED_OPTIONS = {
    "add_model_arguments": "mindcv_ghost.registry",
    "add_picture_arguments": "mindcv_ghost.analysis.pictures",
}
_TAKES_MODEL = ("ghostify", "complexity", "redundancy")  # as their first word
_TAKES_FILE = (("infer", "--model"),)  # where the option of this name has listed values elsewhere
_LISTED_OR_FILE = ("--config", "-c", "--pretrained")  # a listed value, or a path


def model_names() -> list[str]:
    """Return the names of MindCV's models and ours, sorted; MindCV isn't imported."""
    folders = [_PACKAGE / "models"]
    mindcv = importlib.util.find_spec("mindcv")
    if mindcv and mindcv.submodule_search_locations:
        folders += [Path(place) / "models" for place in mindcv.submodule_search_locations]
    registered = re.compile(r"^@register_model\s+def (\w+)", re.MULTILINE)
    texts = [p.read_text(encoding="utf-8") for f in folders for p in sorted(f.rglob("*.py"))]
    return sorted({name for text in texts for name in registered.findall(text)})


def options_of(name: str) -> list[str]:
    """Return a command's long options: of its parser, and all keys of recipes if it takes them.

    Args:
        name: of the command, as in the table.
    """
    command = COMMANDS[name]
    calls = list(_calls(command.module))
    called = {call.name for call in calls}
    for adds, module in _SHARED_OPTIONS.items():
        if adds in called:
            calls += _calls(module)
    added = [call for call in calls if call.name == "add_argument"]
    found = ["--help", *(word for call in added for word in call.texts if word[:2] == "--")]
    if command.keys:
        found += ["--config", *(f"--{key}" for key in keys_of(name))]
    if name == "doctor":
        found += DOCTORS_OPTIONS
    return sorted(set(found))


class _Call(NamedTuple):
    name: str
    texts: list[str]  # arguments that are text
    choices: list[str]
    is_flag: bool  # an option without a value


def _calls(module: str) -> Iterator[_Call]:
    """Read from a module's source text which functions it calls."""
    path = _PACKAGE.parent.joinpath(*module.split(".")).with_suffix(".py")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            listed = [k.value for k in node.keywords if k.arg == "choices"]
            choices = _texts(e for v in listed if isinstance(v, ast.Tuple) for e in v.elts)
            actions = _texts(k.value for k in node.keywords if k.arg == "action")
            yield _Call(name, _texts(node.args), choices, "store_true" in actions)


def _texts(nodes: Iterable[ast.expr]) -> list[str]:
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [value for value in constants if isinstance(value, str)]


def _values() -> dict[str, list[str]]:
    """Return option -> its values, for options whose values can be listed."""
    recipes = list(list_recipes())
    found = {"--config": recipes, "-c": recipes, "--copy": recipes, "--model": model_names()}
    for command in COMMANDS.values():
        for call in _calls(command.module):
            if call.name == "add_argument" and call.choices:
                found.update({word: call.choices for word in call.texts if word[:2] == "--"})
    keys = [key for script in SCRIPT_SECTIONS for key in keys_of(script).values()]
    for key in keys:
        if key.type.is_flag:
            found[f"--{key.name}"] = ["true", "false"]
        elif choices := getattr(key.type, "choices", ()):
            found[f"--{key.name}"] = [str(word) for word in choices if word != ""]
    found["--pretrained"] += _shipped_weights()
    return found


def _shipped_weights() -> list[str]:
    return sorted({card.parent.name for card in _PACKAGE.glob("weights/shipped/*/*/card.json")})


def _unlisted(values: Collection[str]) -> list[tuple[str, str]]:
    """Return (command, option) where an option has values elsewhere, but takes a file or none."""
    flags = [
        (name, word)
        for name, command in COMMANDS.items()
        for call in _calls(command.module)
        if call.name == "add_argument" and call.is_flag
        for word in call.texts
        if word in values
    ]
    return [*_TAKES_FILE, *flags]


def _words() -> dict[str, list[str]]:
    """Return command -> what may follow it where no option's value is expected."""
    own = {"recipes": list(list_recipes()), "completion": list(SHELLS)}
    own.update(dict.fromkeys(_TAKES_MODEL, model_names()))
    return {name: [*own.get(name, ()), *options_of(name)] for name in COMMANDS}


def _cases(words: dict[str, list[str]], line: str) -> str:
    """Return the branches of a shell's case; ``line`` has {} for the words."""
    return "\n".join(f"{name}) {line.format(' '.join(found))} ;;" for name, found in words.items())


def _bash() -> str:
    values = _values()
    listed_or_file = " || ".join(f"$before == {word}" for word in _LISTED_OR_FILE)
    return f"""\
# Completion of mindcv-ghost for bash; made by: mindcv-ghost completion bash
_mindcv_ghost() {{
local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words= values=
# --key=value is three words here
if [[ $word == = ]]; then word=
elif [[ $before == = ]]; then before=${{COMP_WORDS[COMP_CWORD-2]}}; fi
case ${{COMP_WORDS[1]}} in
{_cases(_words(), "words='{}'")}
esac
case ${{COMP_WORDS[1]}}$before in
{"|".join(map("".join, _unlisted(values)))}) ;;
*) case $before in
{_cases(values, "values='{}'")}
esac ;;
esac
if [[ $COMP_CWORD == 1 ]]; then words='{" ".join(COMMANDS)} --help --version'
elif [[ $before == -* && $word != -* ]]; then words=$values; fi
COMPREPLY=($(compgen -W "$words" -- "$word"))
if [[ $COMP_CWORD == 1 || $word == -* ]]; then return; fi
if [[ -z $values || {listed_or_file} ]]; then
COMPREPLY+=($(compgen -f -- "$word"))
fi
}}
complete -o filenames -F _mindcv_ghost mindcv-ghost
"""


def _zsh() -> str:
    values, listed_or_file = _values(), "|".join(_LISTED_OR_FILE)
    commands = "\n".join(f"'{name}:{command.line}'" for name, command in COMMANDS.items())
    return f"""\
#compdef mindcv-ghost
# Completion of mindcv-ghost for zsh; made by: mindcv-ghost completion zsh
_mindcv_ghost() {{
local before=${{words[CURRENT-1]}} word=${{words[CURRENT]}}
local -a commands=(
{commands}
)
if (( CURRENT == 2 )); then _describe command commands; return; fi
if [[ $word == --*=* ]]; then before=${{word%%=*}} word=${{word#*=}}; compset -P 1 '*='; fi
if [[ $before == -* && $word != -* ]]; then
case ${{words[2]}}$before in
{"|".join(map("".join, _unlisted(values)))}) ;;
*) case $before in
{_cases(values, "compadd -- {}")}
esac ;;
esac
else
case ${{words[2]}} in
{_cases(_words(), "compadd -- {}")}
esac
fi
if [[ $word != -* && ( $before == ({listed_or_file}) || compstate[nmatches] -eq 0 ) ]]
then _files; fi
}}
if [[ $funcstack[1] == _mindcv_ghost ]]; then _mindcv_ghost "$@"
else compdef _mindcv_ghost mindcv-ghost; fi
"""


def _fish() -> str:
    start, values = "complete -c mindcv-ghost", _values()
    unlisted = _unlisted(values)
    lines = ["# Completion of mindcv-ghost for fish; made by: mindcv-ghost completion fish"]
    for name, words in _words().items():
        line = COMMANDS[name].line
        lines.append(f"{start} -f -n __fish_use_subcommand -a {name} -d '{line}'")
        here = f"{start} -n '__fish_seen_subcommand_from {name}'"
        for word in words:
            if not word.startswith("--"):
                lines.append(f"{here} -a {word}")
                continue
            short = " -s c" if word == "--config" else ""
            has_list = word in values and (name, word) not in unlisted
            listed = f" -r -a '{' '.join(values[word])}'" if has_list else ""
            lines.append(f"{here} -l {word[2:]}{short}{listed}")
    return "\n".join(lines) + "\n"


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
"""Shell -> function that writes its script."""


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Print a script; return the exit status."""
    parser = argparse.ArgumentParser(
        prog=program("completion"),
        description="Print the completion of mindcv-ghost for a shell. "
        'Into ~/.bashrc: eval "$(mindcv-ghost completion bash)". '
        'Into ~/.zshrc, after compinit: eval "$(mindcv-ghost completion zsh)". '
        "For fish: mindcv-ghost completion fish > ~/.config/fish/completions/mindcv-ghost.fish",
    )
    parser.add_argument("shell", choices=tuple(SHELLS), metavar="SHELL", help=", ".join(SHELLS))
    sys.stdout.write(SHELLS[parser.parse_args(argv).shell]())
    return 0
