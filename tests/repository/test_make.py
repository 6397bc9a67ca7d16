"""What `make` tells a newcomer beside this package's own lines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text()
# As setuptools words it (command/editable_wheel.py).
EDITABLE = "Editable installation.\\n!!\\nPlease be careful with folders in your working directory"


def test_every_installation_is_without_general_notices_of_pip_and_setuptools():
    assert "export PIP_DISABLE_PIP_VERSION_CHECK = 1\n" in MAKEFILE
    assert MAKEFILE.count("pip install") == 1
    (filters,) = re.findall(r"^PIP = PYTHONWARNINGS='(.+)' \$\(BIN\)/python -m pip", MAKEFILE, re.M)

    def told(text: str) -> str:
        code = f'import warnings; warnings.warn("{text}")'
        environ = {**os.environ, "PYTHONWARNINGS": filters}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environ, capture_output=True, text=True).stderr

    assert told(EDITABLE) == ""
    assert "Something else" in told("Something else")
