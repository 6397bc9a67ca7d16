"""Measure networks: what they cost, and how much their feature maps repeat each other.

The functions take a network, run it eagerly in evaluation mode, leave it unchanged, and return
numbers. Two commands take a model's name: ``python -m mindcv_ghost.analysis.complexity`` counts
parameters, multiply-adds, activations and memory; ``python -m mindcv_ghost.analysis.redundancy``
measures how well one map is predicted from another. Start reading with ``complexity``. ``hooks``
runs the networks; ``least_squares`` has the arithmetic for ``redundancy`` and for
``mindcv_ghost.surgery``.
"""
