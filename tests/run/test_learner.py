"""What a learner is made of: losses and loss scales by the recipe's keys."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor, ops

from mindcv_ghost.config.keys import AmpConfig, LossConfig
from mindcv_ghost.run.learner import _loss_scale, create_loss


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_jsd_is_the_cross_entropy_of_the_clean_copies_and_12_times_the_divergence():
    random = np.random.default_rng(0)
    logits = random.normal(size=(12, 5)).astype(np.float32)
    labels = np.tile(random.integers(0, 5, 4), 3).astype(np.int32)
    logs = log_softmax(logits.astype(np.float64))
    smooth = 0.9 * np.eye(5)[labels[:4]] + 0.1 / 5
    copies = np.split(np.exp(logs), 3)
    mixture = np.log(sum(copies) / 3)
    divergence = sum((p * (np.log(p) - mixture)).sum() / 4 for p in copies) / 3
    expected = -(smooth * logs[:4]).sum(1).mean() + 12 * divergence
    loss = create_loss(LossConfig(loss="jsd", label_smoothing=0.1))
    assert float(loss(Tensor(logits), Tensor(labels))) == pytest.approx(expected, rel=1e-5)
    gradient = ops.grad(loss)(Tensor(logits), Tensor(labels)).asnumpy()
    assert np.isfinite(gradient).all() and np.abs(gradient[4:]).max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "scale", "dynamic"),
    [
        ({"loss_scale_type": "auto", "amp_level": "O2"}, 2.0**24, True),
        ({"loss_scale_type": "auto", "amp_level": "O2", "loss_scale": 1024}, 1024.0, True),
        ({"loss_scale_type": "auto", "amp_level": "O3", "loss_scale": 1024}, 1.0, False),
        ({"loss_scale_type": "auto", "amp_level": "O0"}, 1.0, False),
        ({"loss_scale_type": "dynamic", "amp_level": "O0", "loss_scale": 8}, 8.0, True),
        ({"loss_scale_type": "fixed", "amp_level": "O2", "loss_scale": 1024}, 1024.0, False),
    ],
)
def test_auto_scales_as_mindspores_model_does(settings, scale, dynamic):
    found = _loss_scale(AmpConfig(**settings))
    assert (found.value, found.dynamic) == (scale, dynamic)
