"""All tests of models run eagerly unless they switch to graph mode themselves."""

from __future__ import annotations

import mindspore as ms
import pytest


@pytest.fixture(autouse=True)
def pynative():
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)
