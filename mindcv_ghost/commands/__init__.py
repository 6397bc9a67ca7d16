"""The console command ``mindcv-ghost``, which ``python -m mindcv_ghost`` is, too.

In: the command line. Out: an exit status. ``table.py`` has a row for each subcommand, and
``dispatch.py`` imports and runs the one that is named. Subcommands that belong to a room live
there; the others are here, a file each. ``completion.py`` writes the completion for shells.

A subcommand joins with its row in the table. Its module has ``main(argv) -> status``, takes its
usage line from ``mindcv_ghost.program``, and raises a ``UserError`` for bad input.
"""
