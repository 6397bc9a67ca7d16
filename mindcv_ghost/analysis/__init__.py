"""Measures of a network: parameters and operations (``complexity``)."""
