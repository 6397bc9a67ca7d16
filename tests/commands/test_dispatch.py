"""The console command: its help, what it refuses, and what it doesn't import."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mindcv_ghost.commands.dispatch import main
from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def python(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_help_has_a_line_for_each_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert f"  {name:<12}{command.line}" in lines
    assert {"train", "validate", "convert", "complexity", "redundancy"} <= set(COMMANDS)
    assert {"ghostify", "recipes", "doctor"} <= set(COMMANDS)


def test_a_line_of_help_fits_a_terminal():
    assert max(len(command.line) + 14 for command in COMMANDS.values()) <= 80


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "error: there is no command 'trian'; did you mean 'train'? There are train, "),
        (["xyzzy"], "error: there is no command 'xyzzy'. There are train, "),
        ([], "error: no command is given; there are train, "),
        (["--config"], "error: '--config': the command comes first, as in mindcv-ghost train "),
    ],
)
def test_what_names_no_command_is_status_2_and_one_message(words, message, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(message)


def test_the_version_is_the_packages(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mindcv_ghost {__version__}\n"


def test_the_module_is_the_console_command(capsys):
    main(["--help"])
    done = python("-m", "mindcv_ghost", "--help")
    assert (done.returncode, done.stdout, done.stderr) == (0, capsys.readouterr().out, "")


def test_help_imports_nothing_that_is_slow():
    code = (
        "import sys; from mindcv_ghost.commands.dispatch import main; main(['--help'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    loaded = set(python("-c", code).stderr.split())
    ours = {name for name in loaded if name.startswith("mindcv_ghost")}
    names = ("", ".registry", ".errors", ".version", ".commands", ".commands.dispatch")
    assert ours == {f"mindcv_ghost{name}" for name in (*names, ".commands.table")}
    slow = {"mindspore", "mindcv", "numpy", "PIL", "yaml", "tqdm", "safetensors", "asyncio"}
    slow |= {"inspect", "subprocess", "socket", "importlib.metadata", "multiprocessing"}
    assert loaded & slow == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_commands_usage_line_has_the_words_that_the_user_typed(name, monkeypatch, capsys):
    run = importlib.import_module(COMMANDS[name].module).main
    started = {
        "/usr/bin/mindcv-ghost": f"mindcv-ghost {name}",
        str(ROOT / "mindcv_ghost" / "__main__.py"): f"python -m mindcv_ghost {name}",
    }
    for program, words in started.items():
        monkeypatch.setattr("sys.argv", [program])
        try:
            assert run(["--help"]) == 0
        except SystemExit as end:
            assert end.code == 0
        assert capsys.readouterr().out.startswith(f"usage: {words} ")


def test_a_reader_may_stop_reading():
    command = [sys.executable, "-m", "mindcv_ghost", "completion", "fish"]  # more than a pipe holds
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as done:
        assert done.stdout.readline().startswith(b"# Completion of mindcv-ghost")
        done.stdout.close()
        assert done.stderr.read() == b""
    assert done.returncode == 0


def test_an_illegal_recipe_is_refused_as_by_train_py(tmp_path):
    words = ["--epoch_size", "1.5"]
    command = python("-m", "mindcv_ghost", "train", *words)
    script = python("train.py", *words)
    assert command.returncode == script.returncode == 2
    assert command.stderr == script.stderr
    assert command.stderr.startswith("error: --epoch_size: 1.5 isn't legal")


# Sends SIGINT to its own process when that begins to import a module.
INTERRUPTING = """
import os, signal, sys, time

class Finder:
    def find_spec(self, name, path, target=None):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(200):
                time.sleep(0.05)

signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests' own shell may ignore it
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    "module", ["mindcv_ghost.config", "mindcv_ghost.launch.script", "mindspore.train"]
)
@pytest.mark.parametrize("words", [["train.py"], ["-m", "mindcv_ghost", "validate"]], ids=" ".join)
def test_ctrl_c_during_the_imports_ends_a_command_in_one_line(words, module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTING)
    done = subprocess.run(
        [sys.executable, *words, "--ckpt_save_dir", str(tmp_path / "run"), "--dataset", "digits"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "INTERRUPT_AT": module},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")
