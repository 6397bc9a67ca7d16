"""Prediction from .onnx files needs NumPy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from ..helpers.exported import description, write_means

ROOT = Path(__file__).resolve().parents[2]
# A None in sys.modules makes `import NAME` raise ModuleNotFoundError, as if it weren't installed.
BLOCKED = ("mindspore", "mindcv", "yaml", "tqdm", "safetensors", "onnx", "scipy", "matplotlib")
BLOCK = f"import sys\nfor name in {BLOCKED}: sys.modules[name] = None\n"


def python(code: str, *words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BLOCK + code, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_the_modules_of_the_room_are_imported_without_onnx_runtime():
    modules = [p.stem for p in (ROOT / "mindcv_ghost" / "inference").glob("[a-z]*.py")]
    assert {"classifier", "preprocessing", "onnx_runtime", "mindir_runtime"} <= set(modules)
    code = "import importlib; sys.modules['onnxruntime'] = None\n"
    code += f"for m in {modules}: importlib.import_module('mindcv_ghost.inference.' + m)\n"
    code += "import mindcv_ghost; mindcv_ghost.Classifier"
    done = python(code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_and_the_class_work_where_only_these_are_installed(tmp_path):
    path = write_means(tmp_path / "means.onnx", description())
    Image.fromarray(np.full((5, 5, 3), (0, 200, 0), np.uint8)).save(tmp_path / "green.png")
    code = "from mindcv_ghost.commands.dispatch import main; sys.exit(main(sys.argv[1:]))"
    words = ["infer", tmp_path, "--model", path, "--csv", "--topk", "1"]
    done = python(code, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith(f"{tmp_path}/green.png,1,green,1,0.9")
    code = "import mindcv_ghost; print(mindcv_ghost.Classifier(sys.argv[1])(sys.argv[2])[0].label)"
    done = python(code, path, tmp_path / "green.png")
    assert (done.stdout, done.stderr) == ("green\n", "")


def test_what_needs_more_says_what_is_missing(tmp_path):
    (tmp_path / "a.mindir").write_bytes(b"x")
    (tmp_path / "a.ckpt").write_bytes(b"x")
    path = write_means(tmp_path / "a.onnx", None)
    code = "from mindcv_ghost.commands.dispatch import main; sys.exit(main(sys.argv[1:]))"
    cases = {
        ("a.mindir",): "run by MindSpore, which can't be imported",
        ("a.ckpt", "--config", "x"): "a recipe can't be read without yaml",
        ("a.onnx", "--config", "x"): "a recipe can't be read without yaml",
    }
    for (name, *options), words in cases.items():
        done = python(code, "infer", ROOT / "docs", "--model", path.with_name(name), *options)
        assert done.returncode == 2
        assert words in done.stderr
        assert "pip install" in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = python("sys.modules['onnxruntime'] = None\n" + code, "infer", "docs", "--model", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'mindcv-ghost[onnx]'" in done.stderr
