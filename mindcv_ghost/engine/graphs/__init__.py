"""Keeps compiled graphs between processes, so that a second start needs no compilation.

In come a cell and its inputs; the cell is compiled afterwards, from a kept graph if one fits.
``key`` computes the key under which a graph is kept: a digest of everything that a graph depends
on. ``cache`` finds, verifies and stores graphs and has MindSpore read and write them, in a
temporary folder from ``scratch_folder``. Start with ``cache``.
"""
