"""The installed package doesn't need this repository's tools."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "mindcv_ghost"


def test_the_package_imports_neither_tools_nor_benchmarks_nor_tests():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module)
    assert not {name for name in found if name.split(".")[0] in ("tools", "benchmarks", "tests")}
    assert "numpy" in found
