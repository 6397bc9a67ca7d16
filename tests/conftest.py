"""What every test starts from."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile

import pytest

# Before anything imports MindSpore: its warnings would bury a failing test's message.
os.environ.setdefault("GLOG_v", "3")
# The suite runs beside others on small machines; idle OpenMP threads that spin cost the rest.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Compiled graphs of tests are nobody's business but the tests'; a suite starts with none, and each
# of its workers does.
if "MINDCV_GHOST_GRAPHS" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["MINDCV_GHOST_GRAPHS"] = tempfile.mkdtemp(prefix="mindcv_ghost_tests_")
    atexit.register(shutil.rmtree, os.environ["MINDCV_GHOST_GRAPHS"], ignore_errors=True)
if "PYTEST_XDIST_WORKER" in os.environ:
    # A worker is `python -c`. MindSpore's compile cache wants a program's file.
    sys.argv[0] = os.path.join(os.path.dirname(pytest.__file__), "__main__.py")


def pytest_collection_finish(session):
    """Spare the tests what MindSpore does many times over in a process of many small graphs."""
    # MindSpore collects garbage before each graph that it compiles: a tenth of a second over all
    # that the imports have made, none of which is garbage.
    gc.collect()
    gc.freeze()
    if "mindspore" in sys.modules:
        _compile_once()
        atexit.register(_forget_cells)


def _compile_once() -> None:
    """Take away earlier networks before a graph is compiled, and not in the midst of it.

    MindSpore 2.8 looks up the number of the inputs' types, collects garbage, and compiles. Where an
    earlier network goes in that moment that had the same types, it takes their number along, and
    the first call after ``compile`` finds no graph and compiles again.
    """
    from mindspore import nn

    compile_cell = nn.Cell.compile

    def compile(self, *args, **kwargs):
        if not self.compile_cache:
            gc.collect()
        return compile_cell(self, *args, **kwargs)

    nn.Cell.compile = compile


def _forget_cells() -> None:
    """Cells that are left at the interpreter's end aren't counted.

    Their class is gone by then, and each one's ``__del__`` would say so in four lines, behind which
    the suite's result can't be seen.
    """
    from mindspore import nn

    del nn.Cell.__del__
