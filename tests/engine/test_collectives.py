"""What ranks tell each other, alone and between two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mindspore import nn

from mindcv_ghost.engine.collectives import Collectives, checksum

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]


def test_one_rank_hears_itself():
    alone = Collectives()
    assert alone.gather(np.array([1, 2])).tolist() == [[1, 2]]
    assert alone.sum(np.array([0.5])).tolist() == [0.5]
    with pytest.raises(ValueError, match="rank 2 lies outside 0..1"):
        Collectives(2, 2)


def test_a_checksum_sees_one_changed_value():
    network = nn.Dense(3, 2)
    before = checksum(network)
    assert checksum(network) == before
    values = network.weight.asnumpy().copy()
    values[1, 2] = np.nextafter(values[1, 2], np.float32(9))
    network.weight.set_data(type(network.weight)(values))
    assert checksum(network) != before


def test_two_ranks_gather_broadcast_and_average_exactly():
    environ = dict(
        os.environ,
        PYTHONPATH=str(ROOT),
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
    )
    script = Path(__file__).with_name("collectives_ranks.py")
    done = subprocess.run(
        [str(BIN / "mpirun"), "--oversubscribe", "-n", "2", sys.executable, str(script)],
        capture_output=True,
        text=True,
        env=environ,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "OK"
