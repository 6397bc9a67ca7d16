"""``python -m mindcv_ghost`` is the console command ``mindcv-ghost``."""

from __future__ import annotations

import sys

from mindcv_ghost.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
