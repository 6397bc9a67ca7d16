"""Triton's server itself takes the written repository and answers the client of docs/serving.md.

NVIDIA's package for PyPI, nvidia-pytriton, has the server, without a backend for ONNX Runtime. A
backend in Python stands for it, as Triton allows ("Python-based backends").
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from concurrent.futures import ThreadPoolExecutor
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mindcv_ghost.export.serving import write_triton_repository
from mindcv_ghost.inference.classifier import Classifier
from mindcv_ghost.inference.preprocessing import preprocess
from tests.helpers.digits_onnx import DESCRIPTION, PREPROCESSING, digits, write_digits_onnx

ROOT = Path(__file__).resolve().parents[2]
PYTRITON = "nvidia-pytriton==0.7.0"
GLIBC = (2, 35)  # of its wheel
RELEASE = "{}.{}".format(*sys.version_info)
LIBRARIES = sysconfig.get_config_var("LIBDIR")
BACKEND = """
import os
import onnxruntime
import triton_python_backend_utils as utils

class TritonPythonModel:
    def initialize(self, args):
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(path)

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        [taken], [given] = self.session.get_inputs(), self.session.get_outputs()
        value = utils.get_input_tensor_by_name(request, taken.name).as_numpy()
        [result] = self.session.run([given.name], {taken.name: value})
        return utils.InferenceResponse([utils.Tensor(given.name, result)])
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Path:
    """An environment with the server and its backends; returns its site-packages."""
    libc = tuple(int(part) for part in re.findall(r"\d+", platform.libc_ver()[1])[:2])
    if platform.machine() != "x86_64" or libc < GLIBC:
        pytest.skip(f"{PYTRITON} is for x86-64 with glibc {GLIBC} or later, this is {libc}")
    if not (
        Path(LIBRARIES, f"libpython{RELEASE}.so.1.0").exists() or find_library(f"python{RELEASE}")
    ):
        pytest.skip(f"its backend in Python needs libpython{RELEASE}.so, and this one is static")
    folder = tmp_path_factory.mktemp("triton")
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", PYTRITON], check=True)
    subprocess.run([*pip, "onnxruntime", "numpy<2"], check=True)  # its stub is built for NumPy 1
    [packages] = folder.glob("lib/python*/site-packages")
    backends = packages / "pytriton" / "tritonserver" / "backends"
    for file in (backends.parent / "python_backend_stubs" / RELEASE).iterdir():
        shutil.copy2(file, backends / "python" / file.name)
    (backends / "onnxruntime").mkdir()
    (backends / "onnxruntime" / "model.py").write_text(BACKEND)
    return packages


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A repository of two networks, one of which does the preprocessing itself."""
    folder = tmp_path_factory.mktemp("models")
    embedded = replace(
        DESCRIPTION, model="embedded", preprocessing=None, embedded_preprocessing=True
    )
    for description in (DESCRIPTION, embedded):
        path = folder / f"{description.model}.onnx"
        write_digits_onnx(path, description)
        write_triton_repository(folder / "models", path)
    return folder / "models"


@pytest.fixture(scope="module")
def server(environment, models, tmp_path_factory):
    """Start the server; yield its address."""
    log = tmp_path_factory.mktemp("log") / "server.log"
    root = environment / "pytriton" / "tritonserver"
    port, grpc, metrics = free_ports(3)
    command = [root / "bin" / "tritonserver", f"--model-repository={models}"]
    command += [f"--backend-directory={root / 'backends'}", "--http-address=127.0.0.1"]
    command += [f"--http-port={port}", f"--grpc-port={grpc}", f"--metrics-port={metrics}"]
    environ = {
        **os.environ,
        "LD_LIBRARY_PATH": f"{environment / 'nvidia_pytriton.libs'}{os.pathsep}{LIBRARIES}",
        "PYTHONPATH": str(environment),
        "PATH": f"{environment.parents[2] / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(word) for word in command], env=environ, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(120):
                assert process.poll() is None, log.read_text()
                if is_ready(address):
                    break
                time.sleep(0.5)
            else:
                pytest.fail(log.read_text())
            yield address
        finally:
            process.terminate()
            process.wait(60)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def is_ready(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/v2/health/ready").status == 200
    except (urllib.error.URLError, ConnectionError):
        return False


def ask(address: str, body: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    return json.load(urllib.request.urlopen(address, data))


def test_the_configuration_is_taken_as_it_was_written(server):
    config = ask(f"{server}/v2/models/digits_conv/config")
    assert (config["backend"], config["max_batch_size"]) == ("onnxruntime", 32)
    assert config["input"][0]["dims"] == [3, 32, 32]
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 1000
    assert ask(f"{server}/v2/models/embedded")["inputs"] == [
        {"name": "picture", "datatype": "UINT8", "shape": [1, -1, -1, 3]}
    ]


def client_of_the_page() -> str:
    """The client's code in docs/serving.md."""
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


@pytest.mark.parametrize("model", ["digits_conv", "embedded"])
def test_the_client_of_the_page_prints_the_classes_of_the_classifier(
    server, models, model, tmp_path
):
    picture = tmp_path / "digit.png"
    digits(held_out=True)[0][0].save(picture)
    (tmp_path / "client.py").write_text(client_of_the_page())
    command = [sys.executable, "client.py", server, str(models / model), str(picture)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = Classifier(models / model / "1" / "model.onnx")(picture)
    assert [line.split()[1] for line in done.stdout.splitlines()] == [p.label for p in expected]
    assert expected[0].label == "seven"


def test_single_requests_are_put_into_batches_and_answered_each_for_itself(server):
    url = f"{server}/v2/models/digits_conv"
    images, labels = digits(held_out=True)

    def classify(image) -> int:
        data = preprocess(image, PREPROCESSING)
        body = {"name": "image", "datatype": "FP32", "shape": [1, *data.shape]}
        answer = ask(f"{url}/infer", {"inputs": [{**body, "data": data.ravel().tolist()}]})
        return int(np.argmax(answer["outputs"][0]["data"]))

    before = ask(f"{url}/stats")["model_stats"][0]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(classify, images[:64]))
    after = ask(f"{url}/stats")["model_stats"][0]
    assert sum(np.equal(found, labels[:64])) >= 58
    assert after["inference_count"] - before["inference_count"] == 64
    assert after["execution_count"] - before["execution_count"] < 64


def test_a_wrong_shape_is_refused_by_the_configuration(server):
    body = {"name": "image", "datatype": "FP32", "shape": [1, 3, 16, 16], "data": [0.0] * 768}
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask(f"{server}/v2/models/digits_conv/infer", {"inputs": [body]})
    assert "Expected [-1,3,32,32], got [1,3,16,16]" in caught.value.read().decode()
