"""Measure the model zoo, each module one file of ``results/``: counts, ghostify, images/s."""
