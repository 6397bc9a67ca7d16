"""A static page that classifies pictures in the browser.

In: an exported .onnx file. Out: a folder with the page (``page/``), the network, and
onnxruntime-web (``npm_package.py``), which any web server can serve as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from mindcv_ghost.errors import DataError, UserError
from mindcv_ghost.export.onnx_facts import OnnxFacts, read_facts
from mindcv_ghost.export.web.npm_package import FILES, VERSION, onnxruntime_web
from mindcv_ghost.storage.atomic_file import write_bytes, write_text

__all__ = ["prepare_web_page", "write_web_page"]

_PAGE = Path(__file__).with_name("page")
_FIRST = "index.html"
_MARK = '<meta name="generator" content="mindcv-ghost">'


def prepare_web_page(folder: Path) -> None:
    """Fetch what a page needs, and refuse a folder with another page: before a network is exported.

    Args:
        folder: where the page will go.

    Raises:
        UserError: as :func:`write_web_page` does.
    """
    _refuse_another_page(folder)
    onnxruntime_web()


def write_web_page(folder: Path, onnx_path: Path) -> None:
    """Write a page that classifies pictures by an exported network.

    Any server of static files serves the folder: ``python -m http.server --directory FOLDER``.

    Args:
        folder: where the page goes; created if it doesn't exist. An older page there is replaced.
        onnx_path: a file that export has written.

    Raises:
        DataError: if the file isn't one that export has written, or doesn't say how its pictures
            are preprocessed.
        UserError: if the folder can't be written or holds another page, or if onnxruntime-web
            can't be had.
    """
    exported = read_facts(onnx_path)
    description = exported.description
    if description.preprocessing is None and not description.embedded_preprocessing:
        raise DataError(
            f"{onnx_path} doesn't say how pictures are resized and normalised, which a page has to "
            "know: export it with its recipe (--config), or with --embed_preprocess"
        )
    _refuse_another_page(folder)
    runtime = onnxruntime_web()
    try:
        (folder / "onnxruntime").mkdir(parents=True, exist_ok=True)
        for name in FILES:
            write_bytes(folder / "onnxruntime" / name, (runtime / name).read_bytes())
        write_bytes(folder / exported.path.name, exported.path.read_bytes())
        facts = _facts(exported, runtime)
        write_text(folder / "model.json", json.dumps(facts, indent=1) + "\n")
        for path in sorted(_PAGE.iterdir(), key=lambda path: path.name == _FIRST):
            write_bytes(folder / path.name, path.read_bytes())
    except OSError as error:
        raise UserError(
            f"the web page can't be written to {folder}: {error.strerror or error}. Give a folder "
            "that can be written to."
        ) from None


def _refuse_another_page(folder: Path) -> None:
    first = folder / _FIRST
    if first.is_file() and _MARK not in first.read_text(encoding="utf-8", errors="replace"):
        raise UserError(
            f"{first} is another page, which would be overwritten. Give another folder, or remove "
            "it."
        )


def _facts(exported: OnnxFacts, runtime: Path) -> dict[str, object]:
    """What the page has to know besides the network's own file."""
    wasm = FILES[-1]
    return {
        "file": exported.path.name,
        # What the page fetches with progress, in this order, and bytes.
        "files": {
            exported.path.name: exported.path.stat().st_size,
            f"onnxruntime/{wasm}": (runtime / wasm).stat().st_size,
        },
        "input": {"name": exported.input.name, "dims": exported.input.dims},
        "output": {"name": exported.output.name},
        "parameters": exported.parameters,
        "number_format": exported.number_format,
        "onnxruntime_web": VERSION,
        "description": asdict(exported.description),
    }
