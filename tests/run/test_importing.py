"""What is loaded costs no further looks for garbage."""

from __future__ import annotations

import gc

import pytest

from mindcv_ghost.run.imports import importing_without_gc


@pytest.fixture(autouse=True)
def as_before():
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


def test_no_garbage_is_looked_for_while_a_program_loads():
    gc.enable()
    with importing_without_gc():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_has_been_loaded_is_not_looked_at_again():
    with importing_without_gc():
        loaded = [[] for _ in range(1000)]
    assert not any(each is loaded for each in gc.get_objects())
    later = [[]]
    assert any(each is later for each in gc.get_objects())


def test_a_failure_on_the_way_leaves_the_collector_as_it_was():
    for switch in (gc.enable, gc.disable):
        switch()
        before = gc.isenabled()
        with pytest.raises(ImportError), importing_without_gc():
            raise ImportError
        assert gc.isenabled() == before
