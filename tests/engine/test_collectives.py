"""Collectives with one rank; test_two_ranks.py has those with two."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import nn

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.parameters import checksum


def test_a_single_rank_gets_its_own_values():
    alone = Collectives()
    assert alone.gather(np.array([1, 2])).tolist() == [[1, 2]]
    assert alone.sum(np.array([0.5])).tolist() == [0.5]
    with pytest.raises(ValueError, match="rank 2 lies outside 0..1"):
        Collectives(2, 2)


def test_a_checksum_changes_with_one_value():
    network = nn.Dense(3, 2)
    before = checksum(network)
    assert checksum(network) == before
    values = network.weight.asnumpy().copy()
    values[1, 2] = np.nextafter(values[1, 2], np.float32(9))
    network.weight.set_data(type(network.weight)(values))
    assert checksum(network) != before
