"""The Ghost module's figure has computed feature maps, and drawing it again gives equal bytes."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tools.pages import figures


def test_figure_is_the_same_every_time(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.png", "b.png"):
        assert figures.main([str(tmp_path / name)]) == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_each_ghost_map_depends_on_its_intrinsic_map_only():
    _, intrinsic, ghosts = figures._maps()
    assert len(intrinsic) == len(ghosts) == 4
    # A 3x3 filter of zeros gives zeros.
    for one, ghost in zip(intrinsic, ghosts):
        assert ghost[:3].max() == 0.0 and one[:5].max() == 0.0
        assert np.abs(one - ghost).max() > 0.1


def test_missing_matplotlib_is_an_error_without_a_traceback(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert figures.main([str(tmp_path / "a.png")]) == 2
    assert capsys.readouterr().err.startswith("error: drawing needs matplotlib")
