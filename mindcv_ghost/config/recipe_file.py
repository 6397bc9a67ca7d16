"""Recipe files: YAML to what was written where, ``_base_`` files first.

Only the structure is YAML's; the text of each value is read by its key's kind, so that ``1e-5``
(text for PyYAML, which wants ``1.0e-5``) is a number, and a file and the command line refuse the
same things. A document of any content gives problems, never a traceback, and a recipe with its
bases can't cost more than :data:`MAX_BYTES` and :data:`MAX_NODES` nodes, about half a second:
aliases, which can grow without bound, aren't taken.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import yaml

from mindcv_ghost.config.given import Given, shown

__all__ = ["MAX_BYTES", "MAX_NODES", "Recipe", "read_recipe"]

# 100 times the longest recipe of this package; 50 bases of a megabyte each took 23 s.
MAX_BYTES = 250_000
MAX_NODES = 10_000
_MAX_DEPTH = 6
_MAX_FILES = 50
_TAG = "tag:yaml.org,2002:"
# What else YAML 1.1 makes of unquoted words; a key's kind decides what they are.
_SCALARS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "value")}


@dataclass
class Recipe:
    """The settings of a file and its bases.

    Attributes:
        entries: key -> what was written, the file over its bases.
        problems: lines that say where and what is wrong.
    """

    entries: dict[str, Given] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Refused(yaml.MarkedYAMLError):
    """Something of YAML that a recipe has no use for."""


class _Loader(yaml.SafeLoader):
    """Composes nodes (never objects), with bounds.

    Args:
        stream: the document.
        nodes: how many there were in the files before.
    """

    def __init__(self, stream: str, nodes: int) -> None:
        super().__init__(stream)
        self._depth, self.nodes = 0, nodes

    def compose_node(self, parent, index):  # type: ignore[no-untyped-def]
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) aren't taken; write the value out, or use _base_"
            raise _Refused(problem=problem, problem_mark=mark)
        self._depth += 1
        self.nodes += 1
        if self._depth > _MAX_DEPTH:
            raise _Refused(problem=f"nested deeper than {_MAX_DEPTH} levels", problem_mark=mark)
        if self.nodes > MAX_NODES:
            raise _Refused(problem=f"more than {MAX_NODES} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def read_recipe(path: str, where: str = "--config") -> Recipe:
    """Read a recipe file and the files that it builds on.

    Args:
        path: the file.
        where: what asked for it, for the message if it can't be read.
    """
    reader = _Reader()
    recipe = Recipe()
    recipe.entries = reader.resolve(path, where, ())
    recipe.problems = reader.problems
    return recipe


class _Reader:
    """Reads a tree of files, each once."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._done: dict[str, dict[str, Given]] = {}
        self._bytes = self._nodes = 0

    def resolve(self, path: str, where: str, chain: tuple[str, ...]) -> dict[str, Given]:
        """Return a file's settings over those of its bases."""
        real = os.path.realpath(path) if "\0" not in path else path
        if real in chain:
            names = " -> ".join(os.path.basename(p) for p in (*chain[chain.index(real) :], real))
            self.problems.append(f"{where}: _base_ files build on each other in a circle: {names}")
            return {}
        if real in self._done:
            return self._done[real]
        if len(self._done) + len(chain) >= _MAX_FILES:
            self.problems.append(f"{where}: more than {_MAX_FILES} _base_ files")
            return {}
        own = self._read(path, where)
        entries: dict[str, Given] = {}
        for base in _bases(own.pop("_base_", None), self.problems):
            base_path = os.path.join(os.path.dirname(path), base.value)
            _overlay(entries, self.resolve(base_path, base.where, (*chain, real)))
        _overlay(entries, own)
        self._done[real] = entries
        return entries

    def _read(self, path: str, where: str) -> dict[str, Given]:
        text, problem = _text_of(path, MAX_BYTES - self._bytes)
        if problem:
            self.problems.append(f"{where}: {problem}")
            return {}
        self._bytes += len(text.encode("utf-8"))
        loader = None
        try:
            loader = _Loader(text, self._nodes)
            root = loader.get_single_node()
        except yaml.MarkedYAMLError as error:
            self.problems.append(_yaml_problem(path, error))
            return {}
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.problems.append(
                f"{path}:{line}: character {error.character!r} isn't allowed in YAML"
            )
            return {}
        except (ValueError, OverflowError, RecursionError) as error:
            # PyYAML's scanner: chr() of an escape like "\UFFFFFFFF", int() of a %YAML version.
            # A loader that failed in its first read has no mark yet.
            line = loader.get_mark().line + 1 if loader is not None else 1
            self.problems.append(f"{path}:{line}: not YAML: {error}")
            return {}
        finally:
            if loader is not None:
                self._nodes = loader.nodes
                loader.dispose()
        return self._entries(path, root)

    def _entries(self, path: str, root: yaml.Node | None) -> dict[str, Given]:
        if root is None or (root.tag == _TAG + "null" and root.value == ""):
            return {}
        if not isinstance(root, yaml.MappingNode):
            self.problems.append(
                f"{path}:{_line(root)}: a recipe is lines of 'key: value', as 'batch_size: 128'; "
                f"this is {_kind_of(root)}"
            )
            return {}
        return self._mapping(path, root)

    def _mapping(self, path: str, root: yaml.MappingNode) -> dict[str, Given]:
        entries: dict[str, Given] = {}
        first: dict[str, int] = {}
        for key_node, value_node in root.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{path}:{line}: a key is a word, this is a {key_node.id}")
                continue
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                self.problems.append(f"{path}:{line}: '<<' isn't taken; use _base_: file.yaml")
            elif key in entries:
                self.problems.append(
                    f"{path}:{line}: {shown(key)} stands twice, first in line {first[key]}; "
                    "keep one"
                )
            else:
                first[key] = line
                entries[key] = self._given(path, value_node)
        return entries

    def _given(self, path: str, node: yaml.Node) -> Given:
        where = f"{path}:{_line(node)}"
        if isinstance(node, yaml.SequenceNode):
            return Given([self._given(path, item) for item in node.value], where)
        if isinstance(node, yaml.MappingNode):
            return Given(self._mapping(path, node), where)
        if node.tag not in _SCALARS:
            self.problems.append(f"{where}: the tag {shown(_short(node.tag))} isn't taken")
        quoted = node.style is not None
        number = not quoted and node.tag == _TAG + "int"
        return Given(node.value, where, plain=not quoted, number=number)


def _overlay(below: dict[str, Given], above: dict[str, Given]) -> None:
    """Put one layer of settings over another; mappings (``model_args``) are merged by name."""
    for key, given in above.items():
        under = below.get(key)
        if under and isinstance(under.value, dict) and isinstance(given.value, dict):
            given = Given({**under.value, **given.value}, given.where)
        below[key] = given


def _bases(given: Given | None, problems: list[str]) -> list[Given]:
    if given is None:
        return []
    items = given.value if isinstance(given.value, list) else [given]
    bases = []
    for item in items:
        if isinstance(item.value, str) and item.value.strip():
            bases.append(Given(item.value.strip(), f"{item.where}: _base_"))
        else:
            problems.append(f"{item.where}: _base_ is a file's name or a list of them")
    return bases


def _text_of(path: str, most: int) -> tuple[str, str]:
    """Return a file's text, and what is wrong with it ("" if nothing).

    Args:
        path: the file.
        most: bytes it may have, after those that bases had.
    """
    try:
        # O_NONBLOCK: opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "", (
                    f"{_name(path)} is a pipe or a device; give a YAML file (every process of a "
                    "job reads it)"
                )
            raw = file.read(most + 1)
    except FileNotFoundError:
        return "", _missing(path)
    except IsADirectoryError:
        return "", f"{_name(path)} is a folder; give a YAML file{_recipes_in(path)}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return "", f"{_name(path)} can't be read: {reason}"
    if len(raw) > most:
        with_bases = "" if most == MAX_BYTES else " with the _base_ files before it"
        return (
            "",
            f"{_name(path)} is larger than {MAX_BYTES:,} bytes{with_bases}: that is no recipe",
        )
    try:
        return raw.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return "", (
            f"{_name(path)} isn't UTF-8 text: byte 0x{raw[error.start]:02x} in line {line}. "
            "Save it as UTF-8"
        )


def _missing(path: str) -> str:
    import difflib

    folder, name = os.path.split(path)
    if not os.path.isdir(folder or "."):
        return f"there is no {_name(path)}: no folder {_name(folder)}, seen from {os.getcwd()}"
    try:
        names = sorted(n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml")))
    except OSError:
        names = []
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:3]
    hint = ", ".join(os.path.join(folder, n) for n in near)
    return f"there is no {_name(path)}" + (f"; near it: {hint}" if near else " in its folder")


def _recipes_in(folder: str) -> str:
    try:
        names = sorted(n for n in os.listdir(folder) if n.endswith((".yaml", ".yml")))[:3]
    except OSError:
        return ""
    return f", as {', '.join(os.path.join(folder, n) for n in names)}" if names else ""


def _name(path: str) -> str:
    return path if path.isprintable() and len(path) < 1000 else repr(path[:1000])


def _yaml_problem(path: str, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"{path}:{mark.line + 1}" if mark else path
    if isinstance(error, _Refused):
        return f"{place}: {error.problem}"
    column = f" (column {mark.column + 1})" if mark else ""
    context = f" {error.context}" if error.context else ""
    return f"{place}: not YAML{column}: {error.problem or 'cannot be read'}{context}"


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _short(tag: str) -> str:
    return tag.replace(_TAG, "!!")


def _kind_of(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else f"the text {shown(node.value)}"
