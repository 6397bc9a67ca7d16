"""How this process's user starts a command: for usage lines and messages."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["program"]

_PACKAGE = Path(__file__).resolve().parent
_SCRIPTS = ("train", "validate", "export", "infer")  # files at the repository's root


def program(command: str) -> str:
    """Return the words that start a command, in the form that the user has chosen.

    ``python train.py`` names scripts, ``python -m mindcv_ghost train`` names modules, and a module
    that is a command itself names itself. Everybody else, a program of the user's own included, is
    told of the console command, which every installation has.

    Args:
        command: a name of the table of commands, such as "train".

    >>> program("train")
    'mindcv-ghost train'
    """
    started = Path(sys.argv[0]) if sys.argv else Path()
    if command in _SCRIPTS and started.name in [f"{script}.py" for script in _SCRIPTS]:
        return f"python {command}.py"
    try:
        module = started.resolve().relative_to(_PACKAGE).with_suffix("").parts
    except ValueError:
        return f"mindcv-ghost {command}"
    if module == ("__main__",):
        return f"python -m mindcv_ghost {command}"
    if module[-1] == "__main__":
        module = module[:-1]
    if module[-1:] == (command,):
        return f"python -m {'.'.join(('mindcv_ghost', *module))}"
    return f"mindcv-ghost {command}"
