"""The import table of docs/design.md, held against the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "mindcv_ghost"
EVERYBODYS = {"errors", "program", "version"}


def read_table() -> dict[str, dict]:
    rows = {}
    for line in (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[2] in ("yes", "no"):
            rows[cells[0]] = {
                "modules": re.findall(r"`([^`]+)`", cells[1]),
                "light": cells[2] == "yes",
                "may": {name.strip() for name in cells[3].split(",") if name.strip()},
            }
    return rows


TABLE = read_table()


def module_name(path: Path) -> str:
    if path.parent == ROOT:
        return path.name
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def row_of(module: str) -> str | None:
    for row, entry in TABLE.items():  # by its name first: the script export.py isn't in `export.*`
        if module in entry["modules"]:
            return row
    for row, entry in TABLE.items():
        for pattern in entry["modules"]:
            if fnmatch(module, pattern) or pattern == f"{module}.*":  # a package's __init__, too
                return row
    return None


SCRIPTS = ("train.py", "validate.py", "export.py", "infer.py")
SOURCES = sorted((ROOT / PACKAGE).rglob("*.py")) + [ROOT / name for name in SCRIPTS]


def imports_of(path: Path) -> set[str]:
    """Names of this package's modules that a file imports, wherever in it."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # seen by type checkers alone
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                as_path = ROOT / Path(*whole.split("."))
                is_module = as_path.is_dir() or as_path.with_suffix(".py").exists()
                found.add(whole if is_module else node.module)
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    names = {name[len(PACKAGE) + 1 :] for name in found if name.startswith(f"{PACKAGE}.")}
    return names | ({"__init__"} if PACKAGE in found else set())


@pytest.mark.parametrize("path", SOURCES, ids=[module_name(p) for p in SOURCES])
def test_a_file_imports_only_what_the_table_allows(path):
    module = module_name(path)
    if module in EVERYBODYS:
        assert imports_of(path) == set()
        return
    row = row_of(module)
    assert row is not None, f"{module} stands in no row of docs/design.md"
    allowed = TABLE[row]["may"] | {row}
    for name in imports_of(path) - EVERYBODYS:
        assert row_of(name) in allowed, f"{module} ({row}) imports {name} ({row_of(name)})"


def test_a_row_allows_only_what_its_files_import():
    used: dict[str, set[str]] = {row: set() for row in TABLE}
    for path in SOURCES:
        row = row_of(module_name(path))
        if row is not None:
            used[row] |= {row_of(name) for name in imports_of(path) - EVERYBODYS} - {row}
    for row, entry in TABLE.items():
        assert entry["may"] == used[row], f"{row} allows {sorted(entry['may'] - used[row])} unused"


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a walk along the arrows runs into."""
    found, done = [], set()

    def walk(node: str, trail: list[str]) -> None:
        if node in trail:
            found.append([*trail[trail.index(node) :], node])
        elif node not in done:
            for target in sorted(arrows.get(node, ())):
                walk(target, [*trail, node])
            done.add(node)

    for node in sorted(arrows):
        walk(node, [])
    return found


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}}) == []


def test_no_modules_import_each_other_in_a_circle():
    assert circles({module_name(path): imports_of(path) for path in SOURCES}) == []


def test_no_rows_import_each_other_in_a_circle():
    assert circles({row: entry["may"] for row, entry in TABLE.items()}) == []


def test_every_module_of_the_table_exists():
    modules = {module_name(path) for path in SOURCES}
    for row, entry in TABLE.items():
        for pattern in entry["modules"]:
            found = any(fnmatch(m, pattern) or pattern == f"{m}.*" for m in modules)
            assert found, f"row {row} names {pattern}, which isn't there"


def test_light_modules_load_neither_mindspore_nor_mindcv():
    light = [module_name(p) for p in SOURCES if p.parent != ROOT]
    light = [m for m in light if m in EVERYBODYS or (row_of(m) and TABLE[row_of(m)]["light"])]
    code = "import sys, importlib\n"
    for module in light:
        code += f"importlib.import_module({PACKAGE + '.' + module!r})\n"
        code += f"assert not {{'mindspore', 'mindcv'}} & set(sys.modules), {module!r}\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
