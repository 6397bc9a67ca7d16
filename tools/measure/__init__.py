"""Measure what the repository's pages show, and record it in ``results/``.

Comes in: this package's code, of a commit that the record names (``commits.py``). Goes out: a JSON
file for each of ``count_models.py``, ``time_models.py``, ``ghostify_models.py``,
``digits_settings.py``, ``export_families.py``, ``int8.py`` and ``support.py``, and the folder
``results/proof`` of ``proof.py``, which the other files named ``proof_*.py`` belong to.
``turns.py`` times networks in turns. ``results/README.md`` says which page shows which file. Start
with ``count_models.py``, which is the shortest; ``tools/pages`` makes tables of the records.
"""
