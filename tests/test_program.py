"""How a user starts a command, for usage lines and messages."""

from __future__ import annotations

from pathlib import Path

import pytest

import mindcv_ghost
from mindcv_ghost.program import program

PACKAGE = Path(mindcv_ghost.__file__).parent


@pytest.mark.parametrize(
    ("started", "command", "words"),
    [
        ("/venv/bin/mindcv-ghost", "train", "mindcv-ghost train"),
        (PACKAGE / "__main__.py", "train", "python -m mindcv_ghost train"),
        ("train.py", "train", "python train.py"),
        ("/repository/train.py", "validate", "python validate.py"),
        ("infer.py", "infer", "python infer.py"),
        ("train.py", "recipes", "mindcv-ghost recipes"),
        (PACKAGE / "convert" / "__main__.py", "convert", "python -m mindcv_ghost.convert"),
        (PACKAGE / "convert" / "__main__.py", "train", "mindcv-ghost train"),
        (
            PACKAGE / "analysis" / "complexity.py",
            "complexity",
            "python -m mindcv_ghost.analysis.complexity",
        ),
        ("my_program.py", "train", "mindcv-ghost train"),
        ("-c", "train", "mindcv-ghost train"),
        ("", "train", "mindcv-ghost train"),
    ],
)
def test_a_command_is_named_as_the_user_would_start_it(started, command, words, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(started)])
    assert program(command) == words
