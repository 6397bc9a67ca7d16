"""Set-up of every test process."""

from __future__ import annotations

import atexit
import gc
import itertools
import logging
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Set before MindSpore is imported: its warnings would hide the message of a failing test.
os.environ.setdefault("GLOG_v", "3")
# As MindSpore sets it when it is imported; too late if onnx was imported before: "Descriptors
# cannot be created directly" (protobuf 7.36, MindSpore 2.8's train/checkpoint_pb2.py).
os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
# Test processes share few cores, and OpenMP threads that spin while idle take them from others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Tests keep compiled graphs in a folder of their own, empty at the start of each worker.
if "MINDCV_GHOST_GRAPHS" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["MINDCV_GHOST_GRAPHS"] = tempfile.mkdtemp(prefix="mindcv_ghost_tests_")
    atexit.register(shutil.rmtree, os.environ["MINDCV_GHOST_GRAPHS"], ignore_errors=True)
# Where Open MPI 5 keeps the files of a launch, a folder for each test: see pytest_runtest_setup.
LAUNCH_FOLDER = "PRTE_MCA_prte_tmpdir_base"
_LAUNCHES = tempfile.mkdtemp(prefix="mindcv_ghost_tests_mpi_")
atexit.register(shutil.rmtree, _LAUNCHES, ignore_errors=True)
_launch_folders = itertools.count()
# A shell without job control starts a command in the background with Ctrl-C ignored, and its
# children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests start web servers on this machine, which no proxy reaches.
_direct = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
os.environ["no_proxy"] = ",".join(filter(None, [_direct, "127.0.0.1", "localhost"]))
# The same inputs in each run, and no limit of 200 ms each: the machine may be busy.
hypothesis.settings.register_profile("tests", deadline=None, database=None, derandomize=True)
hypothesis.settings.load_profile("tests")
# Two processes share the files of tests. Files that take minutes come first, so that neither
# process has one left when the other is done.
LONG = ("e2e", "engine", "kernels", "packaging")
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker is `python -c`. MindSpore's compile cache wants a program's file.
    sys.argv[0] = os.path.join(os.path.dirname(pytest.__file__), "__main__.py")


def pytest_configure(config):
    """Have pytest-xdist hand files out in our order, not by their numbers of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Sort the files that take long to the front."""
    tests = Path(__file__).parent

    def rank(item) -> int:
        within = item.path.is_relative_to(tests)  # a docstring's examples aren't
        folder = item.path.relative_to(tests).parts[0] if within else ""
        return LONG.index(folder) if folder in LONG else len(LONG)

    items.sort(key=rank)


def pytest_runtest_setup(item):
    """Keep the files that a killed mpirun leaves behind from the launches of other tests.

    Open MPI 5 names its folder in /tmp after its process ID. When mpirun is killed, the folder
    stays; and when a later mpirun gets the same ID, which many tests on a small machine make likely
    (32,768 IDs), it ends with status 213: "The PMIx server's listener thread failed to start".
    """
    os.environ[LAUNCH_FOLDER] = os.path.join(_LAUNCHES, str(next(_launch_folders)))


@pytest.fixture(autouse=True)
def mode_of_the_start():
    """Give each test MindSpore's own mode, PyNative, whatever the tests before it have set.

    A new network, or a new shape, takes a tenth of the time that graph mode compiles for. A test
    that needs graph mode asks for it: with ``graph_mode``, or by setting it.
    """
    _set_pynative_mode()
    yield
    _set_pynative_mode()


def _set_pynative_mode() -> None:
    ms = sys.modules.get("mindspore")
    if ms is not None and ms.get_context("mode") != ms.PYNATIVE_MODE:
        ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.fixture(autouse=True)
def loggers_of_the_start():
    """Undo what a test's ``setup_logging`` changes, or the next one's warnings can't be read."""
    yield
    logger = logging.getLogger("mindcv_ghost")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def graph_mode():
    """Graph mode at the level that training on a CPU uses."""
    import mindspore as ms

    ms.set_context(mode=ms.GRAPH_MODE, jit_config={"jit_level": "O0"})


def pytest_collection_finish(session):
    """Speed up compiling many small graphs in one process."""
    # MindSpore collects garbage before each graph that it compiles. Traversing what the imports
    # have created takes a tenth of a second; frozen objects aren't traversed.
    gc.collect()
    gc.freeze()
    if "mindspore" in sys.modules:
        _compile_once()


def _compile_once() -> None:
    """Collect garbage before a graph is compiled, not during compilation.

    MindSpore 2.8 looks up the number of the inputs' types, collects garbage, and compiles. If that
    collection deletes an earlier network with inputs of the same types, their number is deleted,
    too, and the first call after ``compile`` finds no graph and compiles again.
    """
    from mindspore import nn

    compile_cell = nn.Cell.compile

    def compile(self, *args, **kwargs):
        if not self.compile_cache:
            gc.collect()
        return compile_cell(self, *args, **kwargs)

    nn.Cell.compile = compile
