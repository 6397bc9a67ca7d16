"""``mindcv-ghost`` with networks that compile in a second: ``python tiny.py train ...``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.launch.script import run_script
from tests.helpers.tiny_network import register_plain, register_tiny


def main(argv: list[str]) -> int:
    register_tiny("tiny")
    register_plain("tiny_plain", has_bn=True)
    register_plain("tiny_without_bn", has_bn=False)
    return importlib.import_module(COMMANDS[argv[0]].module).main(argv[1:])


if __name__ == "__main__":
    start = run_script if COMMANDS[sys.argv[1]].launched else lambda run, words: run(words)
    sys.exit(start(main, sys.argv[1:]))
