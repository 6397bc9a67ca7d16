"""G-Ghost-RegNetX: a stage computed by hand, and its widths."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, ops

import mindcv_ghost
from mindcv_ghost.models.gghost_regnet import GGhostStage


def test_complicated_half_is_rounded_down_to_whole_thin_groups():
    # Groups of 48 become 36 wide; half of 192 is 96: two whole groups.
    stage = GGhostStage(96, 192, 6, 48)
    assert stage.complex == 72
    assert stage.cheap[0].weight.shape[:2] == (120, 120)
    assert len(stage.layers) == 4
    # The mix operation reads the maps of the first block and of all thin blocks.
    assert stage.merge[1].weight.shape[:2] == (120, 192 + 4 * 72)


def test_stage_computes_the_papers_equation():
    stage = GGhostStage(4, 16, 3, 4).set_train(False)
    random = np.random.RandomState(0)
    x = Tensor(random.standard_normal((2, 4, 8, 8)).astype(np.float32))
    base = stage.base(x)
    thin = stage.layers[0](base[:, : stage.complex])
    average = ops.concat((base, thin), axis=1).mean(axis=(2, 3), keep_dims=True)
    mixed = average
    for cell in list(stage.merge)[1:]:
        mixed = cell(mixed)
    ghosts = ops.relu(stage.cheap(base[:, stage.complex :]) + mixed)
    expected = stage.end(ops.concat((thin, ghosts), axis=1)).asnumpy()
    np.testing.assert_allclose(stage(x).asnumpy(), expected, rtol=1e-6, atol=1e-6)


def test_short_stages_stay_plain():
    network = mindcv_ghost.create_model("g_ghost_regnetx_032")
    kinds = [type(getattr(network, f"layer{n}")).__name__ for n in (1, 2, 3, 4)]
    assert kinds == ["SequentialCell", "GGhostStage", "GGhostStage", "SequentialCell"]


def test_two_blocks_are_too_few_for_a_ghost_stage():
    with pytest.raises(ValueError, match="blocks is 2, but a Ghost stage has at least 3"):
        GGhostStage(8, 16, 2, 8)
