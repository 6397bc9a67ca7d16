"""Read a recipe file (YAML) and its ``_base_`` files: the raw value of each key, with its line.

YAML gives only the structure. The key's type parses the text of a value, so that ``1e-5`` is a
number (for PyYAML it is text; it wants ``1.0e-5``), and recipes and the command line refuse the
same values.

Whatever a file holds, reading it ends with values and problems, never with a traceback. A recipe
with its bases is limited to :data:`MAX_BYTES` and :data:`MAX_NODES`, about half a second of work.
YAML aliases aren't supported, because they can grow without bound.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import yaml

from mindcv_ghost.config.raw_value import RawValue, quoted
from mindcv_ghost.config.shipped import recipe_path, similar_recipes
from mindcv_ghost.errors import near_names
from mindcv_ghost.program import program

__all__ = ["MAX_BYTES", "MAX_NODES", "Recipe", "read_recipe"]

# 100 times the longest recipe of this package. Reading 50 bases of a megabyte each took 23 s.
MAX_BYTES = 250_000
MAX_NODES = 10_000
_MAX_DEPTH = 6
_MAX_FILES = 50
_TAG = "tag:yaml.org,2002:"
# Types that YAML 1.1 gives to scalars; the key's type parses them anew.
_SCALARS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "timestamp", "value")}


@dataclass
class Recipe:
    """The values of a recipe file and its bases.

    Attributes:
        values: key -> its raw value; the file overrides its bases.
        problems: lines for the user, each with its place.
    """

    values: dict[str, RawValue] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class _Refused(yaml.MarkedYAMLError):
    """A YAML feature that recipes don't support."""


class _Loader(yaml.SafeLoader):
    """Composes YAML nodes, never Python objects, up to the limits.

    Args:
        stream: the document.
        nodes: how many nodes the files before it had.
    """

    def __init__(self, stream: str, nodes: int) -> None:
        super().__init__(stream)
        self._depth, self.nodes = 0, nodes

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """Compose a node and count it (PyYAML calls this for each).

        Raises:
            _Refused: for an alias, or beyond a limit.
        """
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            problem = "aliases (*name) aren't supported; write the value out, or use _base_"
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


def read_recipe(path: str, where: str = "--config", *, with_bases: bool = True) -> Recipe:
    """Read a recipe file and its ``_base_`` files.

    Args:
        path: the file.
        where: the option or line that names it, for the message if it can't be read.
        with_bases: whether it may have ``_base_`` files; if it mayn't, no other file is read.
    """
    reader = _Reader(with_bases)
    return Recipe(reader.resolve(path, where, ()), reader.problems)


class _Reader:
    """Reads a recipe and its bases, each file once."""

    def __init__(self, with_bases: bool) -> None:
        self.with_bases = with_bases
        self.problems: list[str] = []
        self._read_files: dict[str, dict[str, RawValue]] = {}
        self._bytes = self._nodes = 0

    def resolve(self, path: str, where: str, chain: tuple[str, ...]) -> dict[str, RawValue]:
        """Return a file's values, which override those of its bases.

        Args:
            path: the file.
            where: the option or line that names it.
            chain: the files whose ``_base_`` led here.
        """
        real = os.path.realpath(path) if "\0" not in path else path
        if real in chain:
            names = " -> ".join(os.path.basename(p) for p in (*chain[chain.index(real) :], real))
            self.problems.append(f"{where}: the _base_ files form a circle: {names}")
            return {}
        if real in self._read_files:
            return self._read_files[real]
        if len(self._read_files) + len(chain) >= _MAX_FILES:
            self.problems.append(f"{where}: more than {_MAX_FILES} _base_ files")
            return {}
        own = self._read(path, where)
        values: dict[str, RawValue] = {}
        bases = _bases(own.pop("_base_", None), self.problems)
        if bases and not self.with_bases:
            self.problems.append(f"{bases[0][1]} isn't legal here: everything is in this one file")
            return {}
        for base, base_where in bases:
            base_path = recipe_path(base, os.path.dirname(path))
            _override(values, self.resolve(base_path, base_where, (*chain, real)))
        _override(values, own)
        self._read_files[real] = values
        return values

    def _read(self, path: str, where: str) -> dict[str, RawValue]:
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
            # PyYAML's scanner raises these, for chr() of an escape like "\UFFFFFFFF" and int() of a
            # %YAML version. A loader that failed in its first read has no mark yet.
            line = loader.get_mark().line + 1 if loader is not None else 1
            self.problems.append(f"{path}:{line}: not YAML: {error}")
            return {}
        finally:
            if loader is not None:
                self._nodes = loader.nodes
                loader.dispose()
        return self._document(path, root)

    def _document(self, path: str, root: yaml.Node | None) -> dict[str, RawValue]:
        if root is None or (root.tag == _TAG + "null" and root.value == ""):
            return {}
        if not isinstance(root, yaml.MappingNode):
            self.problems.append(
                f"{path}:{_line(root)}: a recipe is lines of 'key: value', as 'batch_size: 128'; "
                f"this is {_describe(root)}"
            )
            return {}
        return self._mapping(path, root)

    def _mapping(self, path: str, root: yaml.MappingNode) -> dict[str, RawValue]:
        values: dict[str, RawValue] = {}
        first: dict[str, int] = {}
        for key_node, value_node in root.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(f"{path}:{line}: a key is a word, this is a {key_node.id}")
                continue
            key = key_node.value
            if key_node.tag == _TAG + "merge":
                self.problems.append(f"{path}:{line}: '<<' isn't supported; use _base_: file.yaml")
            elif key in values:
                self.problems.append(
                    f"{path}:{line}: {quoted(key)} is set twice, first in line {first[key]}; "
                    "keep one"
                )
            else:
                first[key] = line
                values[key] = self._raw_value(path, value_node)
        return values

    def _raw_value(self, path: str, node: yaml.Node) -> RawValue:
        where = f"{path}:{_line(node)}"
        if isinstance(node, yaml.SequenceNode):
            return RawValue([self._raw_value(path, item) for item in node.value], where)
        if isinstance(node, yaml.MappingNode):
            return RawValue(self._mapping(path, node), where)
        if node.tag not in _SCALARS:
            self.problems.append(f"{where}: the tag {quoted(_short(node.tag))} isn't supported")
        plain = node.style is None
        number = plain and node.tag == _TAG + "int"
        return RawValue(node.value, where, plain=plain, number=number)


def _override(below: dict[str, RawValue], above: dict[str, RawValue]) -> None:
    """Override values in place; mappings such as ``model_args`` are merged by name."""
    for key, raw in above.items():
        under = below.get(key)
        if under and isinstance(under.value, dict) and isinstance(raw.value, dict):
            raw = RawValue({**under.value, **raw.value}, raw.where)
        below[key] = raw


def _bases(raw: RawValue | None, problems: list[str]) -> list[tuple[str, str]]:
    """Return the files that ``_base_`` names, each with the place that names it."""
    if raw is None:
        return []
    items = raw.value if isinstance(raw.value, list) else [raw]
    bases = []
    for item in items:
        if isinstance(item.value, str) and item.value.strip():
            bases.append((item.value.strip(), f"{item.where}: _base_"))
        else:
            problems.append(f"{item.where}: _base_ is a file's name or a list of them")
    return bases


def _text_of(path: str, most: int) -> tuple[str, str]:
    """Return a file's text, and why it can't be read ("" if it can).

    Args:
        path: the file.
        most: number of bytes that the files before it have left over.
    """
    try:
        # O_NONBLOCK: opening a pipe without a writer would block forever.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return "", (
                    f"{_name(path)} is a pipe or a device; give a YAML file (every process of a "
                    "job reads it)"
                )
            data = file.read(most + 1)
    except FileNotFoundError:
        return "", _missing(path)
    except IsADirectoryError:
        return "", f"{_name(path)} is a folder; give a YAML file{_recipes_in(path)}"
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return "", f"{_name(path)} can't be read: {reason}"
    if len(data) > most:
        with_bases = "" if most == MAX_BYTES else " with the _base_ files before it"
        return (
            "",
            f"{_name(path)} is larger than {MAX_BYTES:,} bytes{with_bases}: it can't be a recipe",
        )
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return "", (
            f"{_name(path)} isn't UTF-8 text: byte 0x{data[error.start]:02x} in line {line}. "
            "Save it as UTF-8"
        )


def _missing(path: str) -> str:
    """Say that a file isn't there, and what may be meant: another file, or a shipped recipe."""
    folder, name = os.path.split(path)
    text, recipes = f"there is no {_name(path)}", similar_recipes(path)
    if not os.path.isdir(folder or "."):
        text += f": no folder {_name(folder)}, seen from {os.getcwd()}"
        return text + (f"; similar: {', '.join(recipes)}" if recipes else "")
    try:
        names = sorted(n for n in os.listdir(folder or ".") if n.endswith((".yaml", ".yml")))
    except OSError:
        names = []
    near = near_names(name, names, 3, 0.5) or ([] if recipes else names[:3])
    hint = ", ".join([*recipes, *(os.path.join(folder, n) for n in near)])
    text += f"; similar: {hint}" if hint else " in its folder"
    is_name = not folder and not name.endswith((".yaml", ".yml"))
    return text + (f"; `{program('recipes')}` lists the recipes of this package" * is_name)


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


def _describe(node: yaml.Node) -> str:
    return "a list" if isinstance(node, yaml.SequenceNode) else f"the text {quoted(node.value)}"
