"""Benchmarks of speed and memory against rivals; see README.md. ``make bench`` runs them."""
