"""Calls a function right after a module has been imported."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable

__all__ = ["after_import"]


class _Loader(importlib.abc.Loader):
    def __init__(self, real, call: Callable[[], None]) -> None:
        self._real, self._call = real, call

    def create_module(self, spec):
        return self._real.create_module(spec)

    def exec_module(self, module) -> None:
        self._real.exec_module(module)
        self._call()


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, call: Callable[[], None]) -> None:
        self._name, self._call = name, call

    def find_spec(self, name, path=None, target=None):
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        spec.loader = _Loader(spec.loader, self._call)
        return spec


def after_import(name: str, call: Callable[[], None]) -> None:
    """Call ``call`` once, after the module ``name`` has been executed for the first time."""
    sys.meta_path.insert(0, _Finder(name, call))
