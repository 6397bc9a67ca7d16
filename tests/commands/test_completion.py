"""Completion: what it offers, in bash, zsh and fish themselves."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mindcv
import pytest

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.commands.completion import SHELLS, main, model_names, options_of
from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.config import KEYS
from mindcv_ghost.config.shipped import list_recipes
from mindcv_ghost.weights.finding import list_shipped

# A line up to the cursor, and all that may follow its last word.
CASES = {
    "tr": ["train"],
    "train --config ghost_resnet50_dig": ["ghost_resnet50_digits"],
    "train -c ghost_resnet50_dig": ["ghost_resnet50_digits"],
    "train --weight_decay_": ["--weight_decay_filter"],
    "train --ema ": ["true", "false"],
    "train --ema --weight_decay_": ["--weight_decay_filter"],
    "validate --opt ada": ["adam", "adamw", "adagrad", "adan"],
    "validate --model ghostnet_": ["ghostnet_050", "ghostnet_100", "ghostnet_130"],
    "infer --model ghostnet_": [],
    "infer --top": ["--topk"],
    "infer --use_ema ": [],
    "validate --use_ema ": ["true", "false"],
    "validate --pretrained cifar10_jpeg_": ["cifar10_jpeg_s1"],
    "complexity repghostnet_11": ["repghostnet_111"],
    "recipes --copy repghostnet_11": ["repghostnet_111_ascend"],
    "ghostify --init ": ["random", "fit"],
    "doctor --pat": ["--patience"],
    "convert --fo": ["--force"],
    "export --embed_": ["--embed_preprocess"],
    "export --runtime ": ["onnxruntime", "openvino"],
    "train --embed_": [],
}


def test_models_are_found_without_importing_mindcv():
    code = (
        "import sys; from mindcv_ghost.commands.completion import model_names\n"
        "print(*model_names()); assert not {'mindcv', 'mindspore'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(mindcv.list_models()) <= set(model_names()) == set(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_those_that_the_commands_help_lists(name, capsys):
    command, options = COMMANDS[name], options_of(name)
    try:
        importlib.import_module(command.module).main(["--help"])
    except SystemExit as end:
        assert end.code == 0
    text = capsys.readouterr().out
    listed = set(re.findall(r"^ +(?:-\w, )?(--\w+)", text, re.MULTILINE)) - {"--key"}
    if name == "doctor":  # its help refers to that of train
        listed |= {f"--{key}" for key in KEYS} | {"--help"}
    assert listed - {"--version"} == set(options)
    assert (set(KEYS) <= {option[2:] for option in options}) == command.keys


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("completion")
    for shell, write in SHELLS.items():
        (folder / shell).write_text(write(), encoding="utf-8")
    return folder


def run(shell: str, *words: str, text: str = "", cwd: Path) -> str:
    if not shutil.which(shell):
        pytest.skip(f"there is no {shell}")
    done = subprocess.run(
        [shell, *words], input=text, capture_output=True, text=True, timeout=60, cwd=cwd
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def bash(scripts: Path, tmp_path: Path, line: str) -> list[str]:
    """Complete as readline does: '=' is a word of its own."""
    words = [part for word in line.split(" ") for part in re.split("(=)", word) if part] or [""]
    if line.endswith((" ", "=")):
        words.append("")
    quoted = " ".join(f"'{word}'" for word in ("mindcv-ghost", *words))
    code = (
        f"source {scripts / 'bash'}; complete -p mindcv-ghost > /dev/null\n"
        f"COMP_WORDS=({quoted}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _mindcv_ghost\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return run("bash", "--norc", text=code, cwd=tmp_path).split()


@pytest.mark.parametrize("line", CASES)
def test_bash_offers_exactly_what_may_follow(line, scripts, tmp_path):
    assert sorted(bash(scripts, tmp_path, line)) == sorted(CASES[line])


def test_bash_offers_all_commands_recipes_and_files(scripts, tmp_path):
    assert bash(scripts, tmp_path, "") == [*COMMANDS, "--help", "--version"]
    (tmp_path / "mine.yaml").write_text("")
    assert bash(scripts, tmp_path, "train --config ") == [*list_recipes(), "mine.yaml"]
    assert bash(scripts, tmp_path, "train --config=gho") == [
        name for name in list_recipes() if name.startswith("gho")
    ]
    assert bash(scripts, tmp_path, "train --data_dir ") == ["mine.yaml"]
    weights = ["true", "false", *sorted({each.folder.name for each in list_shipped()})]
    assert bash(scripts, tmp_path, "infer --pretrained ") == [*weights, "mine.yaml"]
    assert bash(scripts, tmp_path, "infer --model ") == ["mine.yaml"]


@pytest.mark.parametrize("line", CASES)
def test_fish_offers_what_may_follow(line, scripts, tmp_path):
    code = f"source {scripts / 'fish'}; complete -C 'mindcv-ghost {line}'"
    found = run("fish", "--no-config", "-c", code, cwd=tmp_path).splitlines()
    assert sorted(row.split("\t")[0] for row in found) == sorted(CASES[line])


def test_zsh_completes_in_an_interactive_shell(scripts, tmp_path):
    single = [line for line, words in CASES.items() if len(words) == 1]
    single.append("train --config=ghost_resnet50_dig")
    code = (
        "zmodload zsh/zpty; zpty z zsh -f -i\n"
        f"zpty -w z 'PS1=; autoload -Uz compinit && compinit -u -D; source {scripts / 'zsh'}'\n"
        "zpty -w z 'show() { print -r -- \"<$BUFFER>\"; BUFFER=; zle .reset-prompt }'\n"
        'zpty -w z \'zle -N show; bindkey "^T" show; print rea""dy\'\n'
        "until zpty -r z out && [[ $out == *ready* ]]; do :; done\n"
    )
    for line in single:
        code += f"zpty -w -n z $'mindcv-ghost {line}\\t\\x14'\n"
        code += "until zpty -r z out '*<mindcv-ghost *>*'; do :; done; print -r -- $out\n"
    found = re.findall(r"<(mindcv-ghost [^>]*)>", run("zsh", "-f", text=code, cwd=tmp_path))
    words = [*(CASES[line][0] for line in single[:-1]), "--config=ghost_resnet50_digits"]
    assert [line.split()[-1] for line in found] == words


def test_another_shell_is_refused(capsys):
    with pytest.raises(SystemExit) as end:
        main(["tcsh"])
    assert end.value.code == 2
    assert "bash" in capsys.readouterr().err
