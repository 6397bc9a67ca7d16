"""``python -m mindcv_ghost.kernels.self_test LIBRARY``: exit status 0 if the library passes."""

from __future__ import annotations

import ctypes
import sys

from mindcv_ghost.kernels.self_test.checks import check_library
from mindcv_ghost.kernels.self_test.ranks import check_ranks

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Check the library that is named."""
    library = ctypes.CDLL(argv[0])
    library.ghost_set_threads(2)
    try:
        check_library(library)
        check_ranks(library)
    except (AssertionError, ValueError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
