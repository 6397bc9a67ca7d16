"""An exported file is compared with its network image by image."""

from __future__ import annotations

import numpy as np
import pytest

from mindcv_ghost.export.verification import TOLERANCE, Comparison, VerificationError

LOGITS = np.array([[1.0, 4.0, -8.0], [3.0, 0.0, 1.0]], np.float32)
NAMES = ("cat", "dog", "eel")


def refusal(expected, found, **kwargs) -> str:
    comparison = Comparison("x.onnx", TOLERANCE, kwargs.get("class_names", NAMES))
    with pytest.raises(VerificationError) as refused:
        comparison.add(expected, found, ["a.jpg", "b.jpg"])
    return str(refused.value)


def test_equal_logits_are_counted():
    comparison = Comparison("x.onnx", TOLERANCE)
    comparison.add(LOGITS, LOGITS, ["a", "b"])
    comparison.add(LOGITS, LOGITS + np.float32(3e-5), ["c", "d"])
    assert (comparison.images, comparison.ties) == (4, 0)
    # Relative to each image's largest logit: 8 of the first, 3 of the second.
    assert comparison.largest == pytest.approx(1e-5, rel=0.02)
    assert "top-1 on each of 4 images, logits differ by at most 1.0e-05" in str(comparison)


def test_a_logit_beyond_the_tolerance_is_refused_though_the_class_is_right():
    found = LOGITS.copy()
    found[1, 2] += 3 * 1.5e-4
    text = refusal(LOGITS, found)
    assert "The first image that differs is b.jpg" in text
    assert "differ by 1.5e-04 of the largest one (1e-04 is allowed)" in text


def test_another_class_is_refused_with_both_answers():
    text = refusal(LOGITS, LOGITS[:, [1, 0, 2]])
    assert "x.onnx" in text and "a.jpg" in text
    assert "the network answers class 1 (dog), the file class 0 (cat)" in text
    assert "class 1, the file class 0" in refusal(LOGITS, LOGITS[:, [1, 0, 2]], class_names=())


def test_classes_that_the_network_does_not_tell_apart_are_a_tie():
    own = np.array([[5.0, 5.0002, 0.0]], np.float32)
    comparison = Comparison("x.onnx", TOLERANCE)
    comparison.add(own, own[:, [1, 0, 2]], ["a"])
    assert (comparison.images, comparison.ties) == (1, 1)
    assert "(but for 1 tie)" in str(comparison)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_file_with_nan_or_infinity_is_refused(bad):
    found = LOGITS.copy()
    found[0, 0] = bad
    assert "a.jpg" in refusal(LOGITS, found)


def test_a_network_with_nan_is_told_apart_from_a_wrong_file():
    own = LOGITS.copy()
    own[1, 1] = np.nan
    assert "the network itself has logits that aren't finite on b.jpg" in refusal(own, own)


def test_another_number_of_classes_is_refused():
    assert "shape (2, 2)" in refusal(LOGITS, LOGITS[:, :2])
