"""The weights that come with this package give the recorded count of right answers, to the image.

Fashion-MNIST is read from where Debian's package dataset-fashion-mnist puts it. The folder of
CIFAR-10 as JPEG is given by MINDCV_GHOST_CIFAR10_JPEG. Without the images the tests are skipped;
with MINDCV_GHOST_NEEDS_FASHION_MNIST=1 they fail.
"""

from __future__ import annotations

import os

import pytest

from mindcv_ghost.data.sets.sources import open_source
from mindcv_ghost.errors import DataError
from mindcv_ghost.weights import list_shipped

SHIPPED = {(one.card.model, one.card.name): one.card for one in list_shipped()}
FIRST = ("ghost_resnet20_cifar", "fashion_mnist")


def images_of(card) -> list[str]:
    """Return the options for the card's images, or skip the test."""
    if card.data["dataset"] == "cifar10":
        folder = os.environ.get("MINDCV_GHOST_CIFAR10_JPEG")
        if not folder:
            pytest.skip("MINDCV_GHOST_CIFAR10_JPEG isn't set")
        return ["--data_dir", folder]
    try:
        open_source(card.data["dataset"], "./", card.data["val_split"], system_files=True)
    except DataError as problem:
        if os.environ.get("MINDCV_GHOST_NEEDS_FASHION_MNIST") == "1":
            pytest.fail(str(problem))
        pytest.skip(str(problem))
    return []


@pytest.mark.parametrize(
    "key",
    [FIRST, *(pytest.param(key, marks=pytest.mark.slow) for key in SHIPPED if key != FIRST)],
    ids="-".join,
)
def test_validation_gives_the_recorded_count_of_right_answers(key, scripts):
    card = SHIPPED[key]
    words = ["--model", card.model, "--pretrained", card.name]
    words += ["--dataset", card.data["dataset"], *images_of(card)]
    found = scripts.script("validate.py", *words).json
    recorded = card.accuracy
    assert (found["correct"], found["images"], found["unreadable"]) == (
        recorded["correct"],
        recorded["images"],
        0,
    )
    assert recorded["images"] == 10_000
