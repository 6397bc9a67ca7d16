"""The image library under the compiler's sanitizers: bounds, undefined behaviour, races."""

from __future__ import annotations

from pathlib import Path

import pytest

from mindcv_ghost.data.native.library import FLAGS, jpeg_libraries
from tests.helpers import sanitizers

from .conftest import encoded, photograph

DRIVER = Path(__file__).with_name("drive_images.cc")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_the_library_has_no_memory_errors_and_no_races(tmp_path, sanitizer):
    program = sanitizers.built([DRIVER], FLAGS, sanitizer, tmp_path)
    kinds = [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 2}]
    images = [encoded(photograph(k, (61 + k, 47 - 3 * k)), **o) for k, o in enumerate(kinds)]
    images += [encoded(photograph(9, size)) for size in ((3000, 1), (1, 3000), (1, 1))]
    paths = []
    for k, data in enumerate(images):
        path = tmp_path / f"{k}.jpg"
        path.write_bytes(data)
        paths.append(str(path))
    sanitizers.run([str(program), jpeg_libraries()[0], *paths])
