"""Write the repository's pages: README.md, docs/ and configs/*/README.md.

Comes in: measured results (``results/*.json``, ``benchmarks/*.csv``) and the recipes' header
comments. Goes out: the tables between markers in the pages (``tables.py``) and their pictures
(``benchmarks.py``, ``profile.py``, ``proof.py``, ``figures.py``). ``record_run.py`` turns a
finished run into a result. Start with ``tables.py``; ``make pages`` runs it.
"""
