"""The table of keys, compared with MindCV's."""

from __future__ import annotations

import ast
import csv
import subprocess
import sys
from pathlib import Path

import pytest

from mindcv_ghost.config import ADDITIONS, DEVIATIONS, KEYS, SECTIONS, Config, load_config
from mindcv_ghost.config.value_types import (
    Bool,
    Either,
    Float,
    Int,
    Nullable,
    NumberList,
    OneOrList,
    Text,
)

FACTS = Path(__file__).parents[1] / "facts" / "mindcv_config_keys.csv"

with FACTS.open(encoding="utf-8") as file:
    ROWS = [row for row in csv.DictReader(line for line in file if not line.startswith("#"))]
MINDCV = {row["key"]: row for row in ROWS if row["key"] != "config"}

# MindCV's type -> our types that accept at least the same values
TYPES = {
    "int": (Int,),
    "float": (Float,),
    "str": (Text, Int, Either),
    "str2bool": (Bool,),
    "bool": (Bool,),
    "tuple": (NumberList,),
    "list": (NumberList,),
}


def innermost(value_type):
    while isinstance(value_type, (Nullable, OneOrList)):
        value_type = value_type.inner if isinstance(value_type, Nullable) else value_type.one
    return value_type


def plain(value):
    return tuple(value) if isinstance(value, list) else value


def test_keys_are_mindcvs_and_the_additions():
    assert set(KEYS) == set(MINDCV) | set(ADDITIONS)
    assert not set(MINDCV) & set(ADDITIONS)
    assert set(DEVIATIONS) <= set(MINDCV)


@pytest.mark.parametrize("name", sorted(MINDCV))
def test_default_is_mindcvs_unless_it_is_a_deviation(name):
    theirs = plain(ast.literal_eval(MINDCV[name]["mindcv_default"]))
    assert (KEYS[name].default == theirs) == (name not in DEVIATIONS)
    if name not in DEVIATIONS:
        assert type(KEYS[name].default) is type(theirs)


@pytest.mark.parametrize("name", sorted(MINDCV))
def test_type_is_mindcvs(name):
    value_type = innermost(KEYS[name].type)
    if name == "pretrained":  # is a text, too
        value_type = value_type.first
    assert isinstance(value_type, TYPES[MINDCV[name]["mindcv_type"]])


@pytest.mark.parametrize("name", sorted(n for n in MINDCV if MINDCV[n]["choices"]))
def test_choices_include_all_of_mindcvs(name):
    assert set(MINDCV[name]["choices"].split("|")) <= set(KEYS[name].type.choices)


@pytest.mark.parametrize("name", sorted(KEYS))
def test_default_is_legal_and_survives_saving(name, tmp_path):
    line = next(line for line in Config().to_yaml().splitlines() if line.startswith(f"{name}:"))
    path = tmp_path / "one.yaml"
    path.write_text(line, encoding="utf-8")
    config = load_config(["--config", str(path)])
    assert config.flat()[name] == KEYS[name].default
    assert config.explicit == {name}


def test_an_empty_command_line_gives_the_defaults():
    assert load_config([]) == Config()
    assert load_config([]).flat() == {name: key.default for name, key in KEYS.items()}


def test_each_key_is_in_one_section():
    config = Config()
    for name, key in KEYS.items():
        holders = [s for s in SECTIONS if hasattr(getattr(config, s), name)]
        assert holders == [key.section]


def test_every_key_has_a_help_text_and_describes_its_legal_values():
    for key in KEYS.values():
        assert key.help and key.type.legal, key.name


def test_help_names_every_key_within_the_width_of_a_terminal(capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    for name in KEYS:
        assert f"  --{name} " in text
    assert max(map(len, text.splitlines())) <= 100


def test_help_is_printed_even_if_another_option_is_wrong(capsys):
    with pytest.raises(SystemExit) as ended:
        load_config(["--lr", "abc", "-h"], script="validate")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: mindcv-ghost validate")


def test_version_is_printed(capsys):
    from mindcv_ghost.version import __version__

    with pytest.raises(SystemExit) as ended:
        load_config(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"mindcv_ghost {__version__}\n"


def test_configuration_is_loaded_without_numpy_mindspore_and_mindcv():
    code = (
        "import sys; from mindcv_ghost.config import load_config; load_config([]);"
        "print(sorted({'numpy', 'mindspore', 'mindcv'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
