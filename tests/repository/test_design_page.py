"""The paths that docs/design.md draws, held against the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
CHAPTER = PAGE.split("## Three paths", 1)[1].split("\n## ", 1)[0]
PATHS = dict(
    re.findall(r"### ([^\n]+)\n.*?```mermaid\n(.*?)```", CHAPTER, flags=re.DOTALL),
)
STEP = re.compile(r'(\w+)\["([\w./]+)<br>([\w.]+)"\]')
ARROW = re.compile(r"^\s*(\w+)(?:\[.*?\])? --(?:.*?)> (\w+)", flags=re.MULTILINE)


def steps(drawing: str) -> dict[str, tuple[str, str]]:
    """A drawing's steps by their short names: file and function."""
    return {name: (file, function) for name, file, function in STEP.findall(drawing)}


def walk(drawing: str) -> list[str]:
    """The steps of a drawing in order, which is a single line of arrows."""
    arrows = ARROW.findall(drawing)
    after = dict(arrows)
    assert len(after) == len(arrows) == len(steps(drawing)) - 1, "the path branches or has gaps"
    (place,) = set(after) - set(after.values())
    order = [place]
    while place in after:
        place = after[place]
        order.append(place)
    return order


def defined_in(path: Path) -> set[str]:
    """Functions and classes of a file, methods as ``Class.method``; C++ functions by their name."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\b(\w+)\(", text))
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
    return names


def test_three_paths_are_drawn():
    assert len(PATHS) == 3
    assert all(len(steps(drawing)) >= 6 for drawing in PATHS.values())


@pytest.mark.parametrize("title", PATHS)
def test_every_step_of_a_path_is_in_the_code(title):
    for file, function in steps(PATHS[title]).values():
        assert (ROOT / file).is_file(), file
        assert function in defined_in(ROOT / file), f"{file} has no {function}"


@pytest.mark.parametrize("title", PATHS)
def test_a_path_never_returns_to_a_room_that_it_has_left(title):
    drawn = steps(PATHS[title])
    rooms = [str(Path(drawn[name][0]).parent) for name in walk(PATHS[title])]
    visits = [room for i, room in enumerate(rooms) if i == 0 or rooms[i - 1] != room]
    assert len(visits) == len(set(visits)), visits


def test_the_table_of_where_to_add_what_names_places_that_exist():
    table = PAGE.split("## Where to add what", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`((?:mindcv_ghost|configs|tests|docs|tools|benchmarks)[\w./]*)`", table)
    assert len(named) >= 10
    for name in named:
        assert (ROOT / name).exists(), name
