"""Find the subcommand that the command line names, import it, and run it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from mindcv_ghost.commands.table import COMMANDS
from mindcv_ghost.errors import ConfigError, did_you_mean, tells_user_errors
from mindcv_ghost.version import __version__

__all__ = ["main"]


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run ``mindcv-ghost``; return the exit status.

    Args:
        argv: the command line without the program's name; None: ``sys.argv[1:]``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        # A name of an image or class that the locale can't show ends no command.
        if getattr(stream, "errors", "") == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if words[:1] in (["-h"], ["--help"], ["help"]):
        print(_help_text())
        return 0
    if words[:1] == ["--version"]:
        print(f"mindcv_ghost {__version__}")
        return 0
    name = _command_name(words)
    command = COMMANDS[name]
    try:
        run = importlib.import_module(command.module).main
        if command.launched:
            from mindcv_ghost.launch.script import run_script

            return run_script(run, words[1:])
        status = run(words[1:])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        from mindcv_ghost.launch.interrupts import tell_interrupt

        return tell_interrupt()
    except BrokenPipeError:  # mindcv-ghost recipes | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _command_name(words: Sequence[str]) -> str:
    legal = ", ".join(COMMANDS)
    if not words:
        raise ConfigError(f"no command is given; there are {legal}. --help describes them")
    name = words[0]
    if name.startswith("-"):
        raise ConfigError(
            f"{name!r}: the command comes first, as in mindcv-ghost train {name}; there are {legal}"
        )
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or "."
        raise ConfigError(f"there is no command {name!r}{hint} There are {legal}")
    return name


def _help_text() -> str:
    lines = [
        "usage: mindcv-ghost COMMAND ...",
        "",
        "Ghost networks for MindCV: train, validate and examine models.",
        "",
        *(f"  {name:<12}{command.line}" for name, command in COMMANDS.items()),
        "",
        "Each command has --help. Several processes: mpirun -n 8 mindcv-ghost train ...",
        "python -m mindcv_ghost is the same.",
    ]
    return "\n".join(lines)
