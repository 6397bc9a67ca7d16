"""The doctor: checks a machine part by part, as training will use it, and prints a report.

Input: a command line (``python -m mindcv_ghost.doctor``, see ``options.py``) and the environment
that a launcher left. Output: one line for each check, a summary, a block to paste into an issue,
and an exit status. docs/doctor.md explains every line.

Start reading at ``__main__.py``, then ``diagnosis.py`` (one run of the doctor), ``checks.py`` (the
list of checks) and ``runner.py`` (how they are run on all ranks). ``exchange.py`` shares results
between ranks, ``watchdog.py`` ends checks that hang, ``report.py`` formats results. Only the
modules of ``trials/`` load MindSpore.
"""
