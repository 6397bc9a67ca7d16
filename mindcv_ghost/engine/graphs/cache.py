"""Compiled graphs that outlive the process: the second start doesn't compile again.

MindSpore has a compile cache of its own, but what it holds is found by counting: the n-th graph
that a process compiles is taken for the n-th of the process before, if the scripts' files are the
same. Two cells compiled in another order, or one whose number came from the command line, silently
get each other's graph, and with it the seed of another run's dropout (MindSpore 2.8;
``tests/engine/graphs/test_cache.py`` shows it). Here that cache only reads and writes the graph:
each compilation gets an empty folder with at most the one graph whose key fits, and what it leaves
there is kept under the key. See ``graph_key.py`` for what the key covers.

- Graphs that draw random numbers are not kept: their seed is part of them.
- A file is believed if its digest is right, and is written whole or not at all, so neither a killed
  process, nor a full disk, nor two jobs at once leave anything that is taken for a graph.
- Ranks use their graphs all together or not at all, and only if one run has written them all: a
  graph read and a graph compiled need not order their all-reduces alike.
- Whatever goes wrong with the folder costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import nn
from mindspore.common import api

from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.graphs.key import graph_key
from mindcv_ghost.engine.graphs.scratch_folder import scratch_folder
from mindcv_ghost.storage.atomic_file import replacing

__all__ = ["GraphCache", "cache_folder", "compile_plainly"]

_logger = logging.getLogger(__name__)

_MAGIC = b"mindcv_ghost graph 1\n"
_KEPT = 64  # graphs, the latest used; one of ResNet-50's training is 3 MB
_ROOM = 1 << 26  # bytes that must be free where a graph is written
# Names and attributes of operators that draw: their seeds are numbers in the graph.
_RANDOM = (b"seed", b"Dropout", b"andom", b"Rand", b"Uniform", b"Bernoulli", b"Multinomial")
_RANDOM += (b"StandardNormal", b"TruncatedNormal", b"NormalFloat", b"NormalTensor", b"Laplace")
_RANDOM += (b"InplaceNormal", b"Gamma", b"Poisson", b"Generator")
_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
# Without it MindSpore parses the script's imports before it looks for a graph; our key has both.
_TRUST = "MS_DEV_FORCE_USE_COMPILE_CACHE"


def compile_plainly(cell: nn.Cell, *inputs: ms.Tensor) -> bool:
    """Compile without a cache; False, as the graph came from none."""
    cell.compile(*inputs)
    return False


def cache_folder() -> Path:
    """Where graphs are kept: MINDCV_GHOST_GRAPHS, or in XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get("MINDCV_GHOST_GRAPHS")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(Path.home(), ".cache")
    return Path(home) / "mindcv_ghost" / "graphs"


class GraphCache:
    """Compiles cells, from kept graphs where these fit.

    Args:
        folder: where graphs are kept; made if need be.
        facts: what graphs depend on beside the cell, see ``graph_key``.
        collectives: to the other ranks, which must compile the same cells in the same order.
    """

    def __init__(self, folder: Path, facts: Mapping, collectives: Collectives) -> None:
        self.folder = Path(folder)
        self._facts = {**facts, "rank": collectives.rank, "ranks": collectives.size}
        self._collectives = collectives
        # A user who has turned MindSpore's own cache on wants that one.
        self._off = bool(os.environ.get(_ENABLE)) or bool(ms.get_context("enable_compile_cache"))
        # MindSpore 2.8 reads the program and what that imports before it looks for a graph, and
        # fails where there is no file: python -c.
        self._off |= not os.path.isfile(getattr(api, "entry_script_path", None) or __file__)

    def compile(self, cell: nn.Cell, *inputs: ms.Tensor) -> bool:
        """Compile a cell for inputs; every rank has to call it. Tells whether a graph was used.

        Raises:
            RuntimeError: if a kept graph could be used by some ranks only; it is then removed, and
                the next start works.
        """
        place, entry, run = None, None, 0
        with _ignored("looked for"):
            if not self._off:
                place = _place(self._collectives)
                entry = self.folder / f"{graph_key(cell, inputs, self._facts)}.graph"
                graph, run = _read(entry)
                if graph is not None:
                    run = run if place.prepare(graph) else 0
        # What can go wrong with a rank's graph goes wrong before this; now they agree.
        runs = self._collectives.gather(np.array(run, np.int64))
        agreed = bool(runs.all()) and len(set(runs.tolist())) == 1
        if place is None:
            cell.compile(*inputs)
            found, written = False, None
        else:
            found, written = self._with_mindspore(place, cell, inputs, agreed)
        if agreed:
            self._check(found, entry)
            return found
        run = int(self._collectives.broadcast(np.array(secrets.randbits(62) + 1, np.int64)))
        if written is not None and entry is not None:
            with _ignored("kept"):
                if _is_whole(written) and not any(word in written for word in _RANDOM):
                    self._keep(entry, written, run)
        return False

    def _with_mindspore(self, place, cell, inputs, agreed: bool) -> tuple[bool, bytes | None]:
        """Compile with MindSpore's cache on: whether it used the graph, or what it wrote."""
        if not agreed:
            place.clear()
        try:
            with place.enabled():
                cell.compile(*inputs)
        except Exception as error:
            place.clear()
            if not agreed or self._collectives.size > 1:
                raise
            _logger.warning("compile cache: the graph couldn't be used: %s", error)
            cell.compile(*inputs)
            return False, None
        written = place.written()
        place.clear()
        return agreed and written is None, written

    def _check(self, found: bool, entry: Path) -> None:
        """Refuse to go on if some ranks use kept graphs and others don't."""
        every = bool(self._collectives.gather(np.array(found)).all())
        with contextlib.suppress(OSError):
            os.utime(entry) if every else entry.unlink()
        if not every and self._collectives.size > 1:
            raise RuntimeError(
                f"the kept graph {entry} couldn't be used and has been removed: start again, or "
                "set compile_cache: false"
            )

    def _keep(self, entry: Path, data: bytes, run: int) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self.folder).free < _ROOM:
            return
        body = run.to_bytes(8, "little") + data
        with replacing(entry) as temporary:
            temporary.write_bytes(_MAGIC + hashlib.sha256(body).digest() + body)
        kept = sorted(self.folder.glob("*.graph"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-_KEPT]:
            old.unlink(missing_ok=True)


def _read(entry: Path) -> tuple[bytes | None, int]:
    """A kept graph and the number of the run that wrote it; None and 0 if there is none whole."""
    try:
        data = entry.read_bytes()
    except FileNotFoundError:
        return None, 0
    head = len(_MAGIC)
    body = data[head + 32 :]
    if data[:head] != _MAGIC or hashlib.sha256(body).digest() != data[head : head + 32]:
        _logger.warning("%s is damaged; compiling anew", entry)
        entry.unlink()
        return None, 0
    return body[8:], int.from_bytes(body[:8], "little")


def _is_whole(data: bytes) -> bool:
    """Whether a protobuf message ends where it should: MindSpore doesn't tell of a full disk."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(data, position)
        elif kind == 2:
            length, position = _varint(data, position)
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            return False
    return position == len(data) > 0


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value, position
    return value, len(data) + 1


class _Place:
    """The folder that MindSpore's cache has in this process; it can't be changed once used.

    MindSpore numbers the graphs that it compiles with its cache on. Were this count another than
    MindSpore's, it would find no graph and compile: never a wrong one.
    """

    def __init__(self, collectives: Collectives) -> None:
        self.root = scratch_folder("mindcv_ghost_graphs_")
        self._folder = self.root / f"rank_{collectives.rank}" / "graph_cache"
        self._role = "MS_WORKER" if collectives.size > 1 else ""
        self._count = 0
        self._given: tuple | None = None

    def prepare(self, graph: bytes) -> bool:
        """Lay the graph where MindSpore will look for the next one; False if the disk is full."""
        path = self._folder / f"{self._role}compile_cache_{self._count}.mindir"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(graph)
        except OSError:
            self.clear()
            return False
        self._given = _mark(path)
        return True

    @contextlib.contextmanager
    def enabled(self) -> Iterator[None]:
        """Turn MindSpore's cache on for one compilation."""
        before = {name: os.environ.get(name) for name in (_PATH, _TRUST)}
        os.environ.update({_ENABLE: "1", _PATH: str(self.root), _TRUST: "1"})
        try:
            yield
        finally:
            self._count += 1
            del os.environ[_ENABLE]
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value

    def written(self) -> bytes | None:
        """The graph that MindSpore has written, if it has written one."""
        with _ignored("read"):
            for path in self.root.rglob("*.mindir"):
                if _mark(path) != self._given:
                    return path.read_bytes()
        return None

    def clear(self) -> None:
        """Leave nothing that the next compilation could find."""
        self._given = None
        for path in self.root.rglob("*.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _mark(path: Path) -> tuple:
    """Tells a file from one that was written over it."""
    now = path.stat()
    return path, now.st_ino, now.st_size, now.st_mtime_ns


_places: dict[int, _Place] = {}


def _place(collectives: Collectives) -> _Place:
    if os.getpid() not in _places:
        _places[os.getpid()] = _Place(collectives)
    return _places[os.getpid()]


@contextlib.contextmanager
def _ignored(what: str) -> Iterator[None]:
    """Say that the cache didn't work, and go on."""
    try:
        yield
    except Exception as error:  # whatever it is, compiling without a cache is always possible
        _logger.warning("compile cache: the graph couldn't be %s: %s", what, error)
