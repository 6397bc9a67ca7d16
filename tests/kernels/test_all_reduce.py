"""Sums over the ranks of a machine: the bits of MindSpore's all-reduce, and no rank that hangs."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest

from mindcv_ghost.kernels.self_test.call import call
from mindcv_ghost.kernels.self_test.ranks import check_ranks

from ..engine.ranks import run_on_ranks

SCRIPT = Path(__file__).with_name("all_reduce_ranks.py")


@pytest.mark.parametrize("ranks", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 4))])
def test_ranks_of_a_machine_get_the_bits_of_mindspores_all_reduce(built, ranks):
    done = run_on_ranks(ranks, SCRIPT, str(built.path))
    assert (done.returncode, done.stdout.strip()) == (0, "OK"), done.stdout + done.stderr


def test_ranks_that_wait_for_a_killed_one_end_with_it(built):
    done = run_on_ranks(2, SCRIPT, str(built.path), "kill")
    ended = time.time()
    assert done.returncode != 0
    assert "a sum without" not in done.stdout
    assert "rank 1 of 2 failed: killed by SIGKILL" in done.stderr
    [killed] = re.findall(r"killed at ([\d.]+)", done.stdout)
    assert ended - float(killed) < 30


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_number_of_ranks_and_threads_sums_in_one_order(handle, ranks, threads):
    handle.ghost_set_threads(threads)
    check_ranks(handle, ranks)


def test_a_process_that_shares_no_memory_is_refused_a_sum(handle):
    with pytest.raises(ValueError, match="ghost_all_reduce refuses"):
        call(handle, "ghost_all_reduce", [[1], np.ones(3)], [(3,)])
