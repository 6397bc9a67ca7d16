"""Read the JSON files of a run folder: ``run.json`` and ``validate.json``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from mindcv_ghost.report import ReportError

__all__ = ["read_json"]


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: the file.

    Returns:
        the object.

    Raises:
        ReportError: if there is no such file, or it holds something else.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(
            f"there is no {path}: a training writes run.json into its run folder, and "
            "validate.json is the last line that a validation prints"
        ) from None
    except OSError as error:
        raise ReportError(f"{path} can't be read ({error.strerror or error})") from None
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise ReportError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ReportError(f"{path} holds no JSON object")
    return value
