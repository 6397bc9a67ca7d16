"""Files are data: nothing in the package can make a file's bytes into code or objects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    *(
        path
        for name in ("mindcv_ghost", "tools", "benchmarks")
        for path in (ROOT / name).rglob("*.py")
    ),
    *(ROOT / name for name in ("train.py", "validate.py", "export.py", "infer.py", "setup.py")),
]
# Modules that run or rebuild what a file says.
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
MODULES |= {"torch", "runpy", "imp"}
# PyTorch's own files need it; what its reader runs is asserted below.
TORCH_READER = ROOT / "mindcv_ghost" / "convert" / "torch_file.py"
# A rival is run there, and reads nothing.
BENCHMARKS = ROOT / "benchmarks"
CALLS = {"eval", "exec", "compile", "system", "popen"}
YAML = {"safe_load", "safe_dump", "SafeLoader", "MarkedYAMLError", "Node", "ScalarNode"}
YAML |= {"SequenceNode", "MappingNode", "AliasEvent", "reader"}
# Unpacking by the archive's own names.
UNPACK = {"extractall", "extract", "unpack_archive", "untar_file"}


def called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        # re.compile and network.compile() aren't Python's compile().
        return "" if function.attr == "compile" else function.attr
    return function.id if isinstance(function, ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_unpickled_evaluated_or_unpacked_by_its_own_names(path):
    needs_torch = path == TORCH_READER or path.parent == BENCHMARKS
    modules = MODULES - {"torch"} if needs_torch else MODULES
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        place = f"{path}:{getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Import):
            assert not {a.name.split(".")[0] for a in node.names} & modules, place
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in modules, place
            assert node.module != "yaml", f"{place}: import yaml, and use yaml.safe_load"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "yaml":
                assert node.attr in YAML, f"{place}: yaml.{node.attr}"
        elif isinstance(node, ast.Call):
            name = called(node)
            assert name not in CALLS | UNPACK, f"{place}: {name}()"
            for keyword in node.keywords:
                allowed = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                assert keyword.arg not in ("allow_pickle", "shell") or allowed, place


def test_checkpoints_are_read_by_our_own_parsers_alone():
    for path in (ROOT / "mindcv_ghost").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert called(node) != "load_checkpoint", f"{path}:{node.lineno}"


def test_benchmarks_read_no_file_with_pytorch():
    for path in BENCHMARKS.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in ("torch.load", "torch.jit.load"), path


def test_pytorch_loads_weights_alone():
    calls = [
        node
        for node in ast.walk(ast.parse(TORCH_READER.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert len(calls) == 1
    assert {k.arg: ast.unparse(k.value) for k in calls[0].keywords}["weights_only"] == "True"
