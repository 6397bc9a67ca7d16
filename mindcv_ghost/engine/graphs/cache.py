"""Cache of compiled graphs on the disk.

MindSpore's own compile cache finds a graph by counting: the n-th graph that a process compiles is
taken from the n-th of an earlier process, if the scripts' files are the same. Two cells that are
compiled in another order, or a cell with a number from the command line, silently get each other's
graph, and with it the seed of another run's dropout (MindSpore 2.8;
``tests/engine/graphs/test_cache.py`` shows it). Here MindSpore's cache only reads and writes
graphs: each compilation gets a folder that holds at most the one graph with the right key (see
``key``), and what MindSpore writes there is kept under that key.

- Graphs with random operators are not kept, because their seeds are part of the graph.
- A kept graph is used only if its digest is right, and it is written atomically. Killed processes,
  full disks and concurrent jobs therefore never leave a file that is taken for a graph.
- Either all ranks use kept graphs or none does, and only if the same run wrote all of them: a graph
  that is read and one that is compiled may order their all-reduces differently.
- If anything goes wrong with the folder, the cell is compiled as without a cache.
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

from mindcv_ghost.compat import cache_folder
from mindcv_ghost.engine.collectives import Collectives
from mindcv_ghost.engine.graphs.key import graph_key
from mindcv_ghost.engine.graphs.scratch_folder import scratch_folder
from mindcv_ghost.storage.atomic_file import write_bytes
from mindcv_ghost.storage.protobuf import MalformedMessage, read_fields

__all__ = ["GraphCache", "graph_folder"]

_logger = logging.getLogger(__name__)

_MAGIC = b"mindcv_ghost graph 1\n"
_MAX_GRAPHS = 64  # the last used ones; the graph of ResNet-50's training has 3 MB
_MIN_FREE_BYTES = 1 << 26
# Names and attributes of random operators, whose seeds are numbers in the graph.
_RANDOM_OPERATORS = (
    *(b"seed", b"Dropout", b"andom", b"Rand", b"Uniform", b"Bernoulli", b"Multinomial"),
    *(b"StandardNormal", b"TruncatedNormal", b"NormalFloat", b"NormalTensor", b"Laplace"),
    *(b"InplaceNormal", b"Gamma", b"Poisson", b"Generator"),
)
_ENABLE, _PATH = "MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH"
# Without this variable MindSpore compares the sources that the script imports before it looks for a
# graph; here the key covers them.
_FORCE = "MS_DEV_FORCE_USE_COMPILE_CACHE"


def graph_folder() -> Path:
    """Return the folder for graphs: MINDCV_GHOST_GRAPHS, or one in the package's cache folder."""
    given = os.environ.get("MINDCV_GHOST_GRAPHS")
    return Path(given) if given else cache_folder() / "graphs"


class GraphCache:
    """Compiles cells, from kept graphs if possible.

    Args:
        folder: where graphs are kept; created if needed.
        facts: what graphs depend on beside the cell, see :func:`key.graph_key`.
        collectives: to the other ranks, which must compile the same cells in the same order.
    """

    def __init__(self, folder: Path, facts: Mapping, collectives: Collectives) -> None:
        self.folder = Path(folder)
        self._facts = {**facts, "rank": collectives.rank, "ranks": collectives.size}
        self._collectives = collectives
        # If the user has enabled MindSpore's own cache, leave it alone.
        self._off = bool(os.environ.get(_ENABLE)) or bool(ms.get_context("enable_compile_cache"))
        # MindSpore 2.8 reads the script and its imports before it looks for a graph, and fails if
        # there is no such file (python -c).
        self._off |= not os.path.isfile(getattr(api, "entry_script_path", None) or __file__)

    def compile(self, cell: nn.Cell, *inputs: ms.Tensor) -> bool:
        """Compile a cell for inputs; every rank has to call it.

        Args:
            cell: to compile.
            inputs: tensors of the shapes and types to compile for.

        Returns:
            Whether a kept graph was used.

        Raises:
            RuntimeError: if only some ranks could use a kept graph. It is then removed, and the
                next start works.
        """
        exchange: _Exchange | None = None
        entry: Path | None = None
        run = 0
        with _warn_if_it_fails("searched for"):
            if not self._off:
                exchange = _process_exchange(self._collectives)
                entry = self.folder / f"{graph_key(cell, inputs, self._facts)}.graph"
                graph, run = _read(entry)
                if graph is not None:
                    run = run if exchange.offer(graph) else 0
        # Whatever can fail on one rank alone has failed by now. Use the graphs only if all ranks
        # have one of the same run.
        runs = self._collectives.gather(np.array(run, np.int64))
        agreed = bool(runs.all()) and len(set(runs.tolist())) == 1
        written: bytes | None = None
        if exchange is None:
            cell.compile(*inputs)
            found = False
        else:
            found, written = self._compile_with_mindspores_cache(exchange, cell, inputs, agreed)
        if agreed and entry is not None:
            self._check_that_all_ranks_did(found, entry)
            return found
        run = int(self._collectives.broadcast(np.array(secrets.randbits(62) + 1, np.int64)))
        if written is not None and entry is not None:
            with _warn_if_it_fails("kept"):
                if _is_whole(written) and not any(name in written for name in _RANDOM_OPERATORS):
                    self._keep(entry, written, run)
        return False

    def _compile_with_mindspores_cache(
        self, exchange: _Exchange, cell: nn.Cell, inputs: tuple[ms.Tensor, ...], agreed: bool
    ) -> tuple[bool, bytes | None]:
        """Return whether MindSpore used the offered graph, or else the graph that it wrote."""
        if not agreed:
            exchange.clear()
        try:
            with exchange.enabled():
                cell.compile(*inputs)
        except Exception as error:
            exchange.clear()
            if not agreed or self._collectives.size > 1:
                raise
            _logger.warning("compile cache: the graph couldn't be used: %s", error)
            cell.compile(*inputs)
            return False, None
        written = exchange.written()
        exchange.clear()
        return agreed and written is None, written

    def _check_that_all_ranks_did(self, found: bool, entry: Path) -> None:
        """Raise an error if only some ranks used their kept graphs."""
        every = bool(self._collectives.gather(np.array(found)).all())
        with contextlib.suppress(OSError):
            os.utime(entry) if every else entry.unlink()
        if not every and self._collectives.size > 1:
            raise RuntimeError(
                f"the kept graph {entry} couldn't be used and has been removed: start again, or "
                "set compile_cache: false"
            )

    def _keep(self, entry: Path, graph: bytes, run: int) -> None:
        """Write a graph, and remove those that haven't been used for the longest time."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if shutil.disk_usage(self.folder).free < _MIN_FREE_BYTES:
            return
        body = run.to_bytes(8, "little") + graph
        write_bytes(entry, _MAGIC + hashlib.sha256(body).digest() + body)
        kept = []
        for path in self.folder.glob("*.graph"):
            with contextlib.suppress(FileNotFoundError):  # another rank or job has just removed it
                kept.append((path.stat().st_mtime, path))
        for _, old in sorted(kept)[:-_MAX_GRAPHS]:
            old.unlink(missing_ok=True)


def _read(entry: Path) -> tuple[bytes | None, int]:
    """Return a kept graph and the number of the run that wrote it; None and 0 if there is none."""
    try:
        data = entry.read_bytes()
    except FileNotFoundError:
        return None, 0
    head = len(_MAGIC)
    body = data[head + 32 :]
    if data[:head] != _MAGIC or hashlib.sha256(body).digest() != data[head : head + 32]:
        _logger.warning("%s is damaged; compiling again", entry)
        entry.unlink()
        return None, 0
    return body[8:], int.from_bytes(body[:8], "little")


def _is_whole(graph: bytes) -> bool:
    """Tell whether a protobuf message isn't cut: MindSpore doesn't report a full disk."""
    try:
        return sum(1 for _ in read_fields(memoryview(graph), fixed_size=True)) > 0
    except MalformedMessage:
        return False


class _Exchange:
    """The folder through which graphs go to MindSpore's cache and come from it.

    There is one per process: MindSpore's cache can't change its folder once it was used. MindSpore
    numbers the graphs that it compiles with its cache enabled. If the count here ever differed from
    MindSpore's, MindSpore would find no graph and compile; it would never find a wrong one.
    """

    def __init__(self, collectives: Collectives) -> None:
        self.root = scratch_folder("mindcv_ghost_graphs_")
        self._folder = self.root / f"rank_{collectives.rank}" / "graph_cache"
        self._prefix = "MS_WORKER" if collectives.size > 1 else ""
        self._count = 0
        self._offered: tuple | None = None

    def offer(self, graph: bytes) -> bool:
        """Write a graph where MindSpore looks for the next one; False if the disk is full."""
        path = self._folder / f"{self._prefix}compile_cache_{self._count}.mindir"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(graph)
        except OSError:
            self.clear()
            return False
        self._offered = _identity(path)
        return True

    @contextlib.contextmanager
    def enabled(self) -> Iterator[None]:
        """Enable MindSpore's cache for one compilation."""
        before = {name: os.environ.get(name) for name in (_PATH, _FORCE)}
        os.environ.update({_ENABLE: "1", _PATH: str(self.root), _FORCE: "1"})
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
        """Return the graph that MindSpore has written, if it has written one."""
        with _warn_if_it_fails("read"):
            for path in self.root.rglob("*.mindir"):
                if _identity(path) != self._offered:
                    return path.read_bytes()
        return None

    def clear(self) -> None:
        """Remove all graphs, so that the next compilation finds none."""
        self._offered = None
        for path in self.root.rglob("*.*"):
            with contextlib.suppress(OSError):
                path.unlink()


def _identity(path: Path) -> tuple:
    """Return values that change if the file is overwritten."""
    now = path.stat()
    return path, now.st_ino, now.st_size, now.st_mtime_ns


_exchanges: dict[int, _Exchange] = {}


def _process_exchange(collectives: Collectives) -> _Exchange:
    """Return this process's exchange; a forked child gets its own."""
    if os.getpid() not in _exchanges:
        _exchanges[os.getpid()] = _Exchange(collectives)
    return _exchanges[os.getpid()]


@contextlib.contextmanager
def _warn_if_it_fails(what: str) -> Iterator[None]:
    """Turn any error into a warning: compiling without a cache is always possible."""
    try:
        yield
    except Exception as error:
        _logger.warning("compile cache: the graph couldn't be %s: %s", what, error)
