"""Imports run without garbage collection, and what they create is never traversed afterwards."""

from __future__ import annotations

import gc

import pytest

from mindcv_ghost.run.imports import importing_without_gc


@pytest.fixture(autouse=True)
def restored_collector():
    enabled = gc.isenabled()
    yield
    (gc.enable if enabled else gc.disable)()


def test_garbage_collection_is_disabled_during_the_imports():
    gc.enable()
    with importing_without_gc():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_objects_created_during_the_imports_are_frozen():
    with importing_without_gc():
        imported = [[] for _ in range(1000)]
    assert not any(each is imported for each in gc.get_objects())
    created_later = [[]]
    assert any(each is created_later for each in gc.get_objects())


def test_a_failing_import_leaves_the_collector_as_it_was():
    for switch in (gc.enable, gc.disable):
        switch()
        before = gc.isenabled()
        with pytest.raises(ImportError), importing_without_gc():
            raise ImportError
        assert gc.isenabled() == before
