"""Set-up of every test process."""

from __future__ import annotations

import atexit
import gc
import itertools
import os
import shutil
import sys
import tempfile

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
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker is `python -c`. MindSpore's compile cache wants a program's file.
    sys.argv[0] = os.path.join(os.path.dirname(pytest.__file__), "__main__.py")


def pytest_runtest_setup(item):
    """Keep the files that a killed mpirun leaves behind from the launches of other tests.

    Open MPI 5 names its folder in /tmp after its process ID. When mpirun is killed, the folder
    stays; and when a later mpirun gets the same ID, which many tests on a small machine make likely
    (32,768 IDs), it ends with status 213: "The PMIx server's listener thread failed to start".
    """
    os.environ[LAUNCH_FOLDER] = os.path.join(_LAUNCHES, str(next(_launch_folders)))


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
