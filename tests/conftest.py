"""What every test starts from."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Before anything imports MindSpore: its warnings would bury a failing test's message.
os.environ.setdefault("GLOG_v", "3")
# The suite runs beside others on small machines; idle OpenMP threads that spin cost the rest.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Compiled graphs of tests are nobody's business but the tests'; a suite starts with none.
if "MINDCV_GHOST_GRAPHS" not in os.environ:
    os.environ["MINDCV_GHOST_GRAPHS"] = tempfile.mkdtemp(prefix="mindcv_ghost_tests_")
    atexit.register(shutil.rmtree, os.environ["MINDCV_GHOST_GRAPHS"], ignore_errors=True)
