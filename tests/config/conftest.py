"""Recipes written for one test."""

from __future__ import annotations

import textwrap

import pytest

from mindcv_ghost.config import load_config
from mindcv_ghost.errors import ConfigError


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe and return its path as text."""

    def write(text: str, name: str = "recipe.yaml") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def load(recipe):
    """Load a configuration from a recipe's text and further words."""

    def run(text: str, *words: str, script: str = "train"):
        return load_config(["--config", recipe(text), *words], script=script)

    return run


@pytest.fixture
def refused(load, recipe):
    """Return the lines of the message that a recipe and further words are refused with."""

    def run(text: str | None, *words: str, script: str = "train") -> str:
        argv = list(words) if text is None else ["--config", recipe(text), *words]
        with pytest.raises(ConfigError) as caught:
            load_config(argv, script=script)
        return str(caught.value)

    return run
