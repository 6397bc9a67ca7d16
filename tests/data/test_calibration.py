"""Calibration batches: augmented as in training, without mixup, the same ones each time."""

from __future__ import annotations

import numpy as np

from mindcv_ghost.data import Augment, calibration_batches, open_source


def drawn(images: int, **settings) -> list[np.ndarray]:
    source = open_source("digits", "", "train")
    augment = Augment(image_resize=16, mixup=0.4, cutmix=1.0, **settings)
    return list(calibration_batches(source, augment, images, batch_size=8, seed=3))


def test_batches_hold_as_many_images_as_asked_for():
    batches = drawn(24)
    assert [batch.shape for batch in batches] == [(8, 3, 16, 16)] * 3
    assert batches[0].dtype == np.float32
    assert [batch.shape[0] for batch in drawn(5)] == [5]
    assert [batch.shape[0] for batch in drawn(20)] == [6, 6, 6]  # equal ones
    plain = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "hflip": 0.0, "color_jitter": None}
    flat = np.concatenate(drawn(16, aug_repeats=3, **plain)).reshape(16, -1)
    assert (((flat[:, None] - flat[None]) ** 2).mean(-1) + 9 * np.eye(16)).min() > 0.01


def test_the_same_images_come_each_time_and_from_the_whole_set():
    first, second = np.concatenate(drawn(64)), np.concatenate(drawn(64))
    np.testing.assert_array_equal(first, second)
    flat = first.reshape(64, -1)
    distances = ((flat[:, None] - flat[None]) ** 2).mean(-1) + 9 * np.eye(64)
    assert distances.min() > 0.01  # no image twice
