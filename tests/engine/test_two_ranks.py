"""What two ranks do together. They are started once, because that takes most of the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from .ranks import run_on_ranks


@pytest.fixture(scope="module")
def done():
    return run_on_ranks(2, Path(__file__).with_name("check_ranks.py"))


def test_two_ranks_gather_broadcast_and_average_exactly(done):
    assert "check_collectives" in done.stdout, done.stdout + done.stderr


def test_all_ranks_skip_an_update_if_one_of_them_overflowed(done):
    assert done.stdout.split() == ["check_collectives", "check_overflow"], done.stderr
    assert done.returncode == 0
