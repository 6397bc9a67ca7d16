"""What every test starts from."""

from __future__ import annotations

import os

# Before anything imports MindSpore: its warnings would bury a failing test's message.
os.environ.setdefault("GLOG_v", "3")
# The suite runs beside others on small machines; idle OpenMP threads that spin cost the rest.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
