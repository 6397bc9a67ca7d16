"""Repeatable random numbers for operations that are written in Python.

MindCV's augmentations draw from the global generators ``random`` and ``numpy.random``. The
pipeline's threads share these, so with two threads no two runs agree. Here MindCV's module is
loaded a second time with generators of its own, one pair for each thread, and an operation seeds
its thread's pair before each image (Mixup: before each batch).
"""

from __future__ import annotations

import functools
import importlib.util
import random
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

__all__ = ["SeededOp", "ThreadGenerators", "module_with_own_generators"]


class ThreadGenerators(threading.local):
    """One thread's random generators, in place of the global ones of ``random`` and NumPy."""

    def __init__(self) -> None:
        self.python = random.Random(0)
        self.numpy = np.random.RandomState(0)

    def seed(self, value: int) -> None:
        """Seed both generators of this thread; the lower 32 bits of ``value`` count."""
        value = int(value) & 0xFFFFFFFF
        self.python.seed(value)
        self.numpy.seed(value)


class SeededOp:
    """A Python operation on one image whose random numbers depend on the given seed alone.

    Args:
        op: the operation, image to image.
        generators: those that ``op`` draws from.
    """

    def __init__(self, op: Callable[[np.ndarray], np.ndarray], generators: ThreadGenerators):
        self._op, self._generators = op, generators

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Apply the operation to an image."""
        self._generators.seed(seed)
        return self._op(image)

    def __deepcopy__(self, memo: dict) -> SeededOp:
        # MindSpore copies a pipeline for each iterator, and a threading.local can't be copied.
        return self


class _Redirect(ModuleType):
    """A stand-in for a module whose attributes come from a function."""

    def __init__(self, name: str, lookup: Callable[[str], Any]):
        super().__init__(name)
        self.__dict__["_lookup"] = lookup

    def __getattr__(self, name: str) -> Any:
        return self.__dict__["_lookup"](name)


@functools.cache
def module_with_own_generators(name: str) -> tuple[ModuleType, ThreadGenerators]:
    """Load a second copy of a module that draws from generators of its own.

    The module in ``sys.modules`` is left alone.

    Args:
        name: of the module, which uses ``random`` and ``np.random`` under these names.

    Returns:
        The copy, and the generators that it draws from.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no module {name}")
    generators = ThreadGenerators()
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    numpy_random = _Redirect("numpy.random", lambda attribute: getattr(generators.numpy, attribute))
    vars(module).update(
        np=_Redirect(
            "numpy",
            lambda attribute: numpy_random if attribute == "random" else getattr(np, attribute),
        ),
        random=_Redirect("random", lambda attribute: getattr(generators.python, attribute)),
    )
    return module, generators
