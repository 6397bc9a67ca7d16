"""Prediction where only the wheel, NumPy, Pillow and ONNX Runtime are installed."""

from __future__ import annotations

import json
import shutil
import venv
from pathlib import Path

import mindcv
import pytest

from mindcv_ghost import Classifier
from mindcv_ghost.export import to_onnx
from mindcv_ghost.inference.description import ModelDescription, Preprocessing

from ..data.conftest import make_split
from ..helpers.randomised import randomise
from .conftest import build, start

CLASSES = {"ant": 3, "bee": 2, "cow": 2}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_labels_are_those_of_a_whole_installation(sources, tmp_path):
    [wheel] = build(sources, tmp_path / "dist", "--wheel", MINDCV_GHOST_PREBUILT="0")
    network = mindcv.create_model("ghost_resnet20_cifar", num_classes=3)
    randomise(network)
    description = ModelDescription(
        "ghost_resnet20_cifar", 3, Preprocessing(32, 32, 36), tuple(CLASSES)
    )
    model = tmp_path / "net.onnx"
    to_onnx(network, model, image_size=(32, 32), description=description)
    folder = make_split(tmp_path / "images", CLASSES)

    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    start(*pip, "--no-deps", wheel, cwd=tmp_path)
    start(*pip, "numpy", "pillow", "onnxruntime", cwd=tmp_path, timeout=600)
    code = "import importlib.util as u; print([n for n in %r if u.find_spec(n)])"
    absent = ("mindspore", "mindcv", "yaml", "tqdm", "safetensors", "onnx")
    assert start(python, "-c", code % (absent,), cwd=tmp_path, PYTHONPATH="") == "[]\n"

    command = [python.with_name("mindcv-ghost"), "infer", folder, "--model", model, "--json"]
    rows = [json.loads(line) for line in start(*command, cwd=tmp_path, PYTHONPATH="").splitlines()]
    paths = sorted(map(str, folder.glob("*/*.jpg")))
    assert [row["image"] for row in rows] == paths
    for row, expected in zip(rows, Classifier(model)(paths)):
        assert [p["label"] for p in row["predictions"]] == [p.label for p in expected]
        for found, own in zip(row["predictions"], expected):
            assert found["probability"] == pytest.approx(own.probability, abs=1e-6)
    code = "import sys, mindcv_ghost as m; print(m.Classifier(sys.argv[1])(sys.argv[2])[0].label)"
    label = start(python, "-c", code, model, paths[0], cwd=tmp_path, PYTHONPATH="")
    assert label.strip() == rows[0]["predictions"][0]["label"]
    assert Path(rows[0]["image"]).parent.name in CLASSES
    shutil.rmtree(tmp_path / "environment")  # pytest would keep its hundreds of megabytes
