"""The operators under the compiler's sanitizers: bounds, undefined behaviour, races."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindcv_ghost.kernels.library import FLAGS, SOURCES
from tests.helpers import sanitizers

DRIVER = Path(__file__).with_name("drive.cc")


@pytest.mark.slow
@pytest.mark.timeout(900)  # two minutes on two idle cores
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_operators_touch_nothing_of_others_and_do_not_race(tmp_path, sanitizer):
    options = [*FLAGS, "-DGHOST_SEPARATE_SCRATCH"]
    if sanitizer == "thread":  # which doesn't follow threads into a forked child
        options.append("-DWITHOUT_FORK")
    sources = [DRIVER, *sorted(SOURCES.glob("*.cc"))]
    sanitizers.run([str(sanitizers.built(sources, options, sanitizer, tmp_path))])
