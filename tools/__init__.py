"""This repository's own tools: they write its pages and measure what the pages say.

They are run from the repository's root, as ``python -m tools.pages.tables``, and aren't part of the
installed package, which never imports them.
"""
