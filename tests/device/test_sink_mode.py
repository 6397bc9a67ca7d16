"""Sink mode: the device fetches its batches from a queue that threads fill."""

from __future__ import annotations

import shutil

import pytest

from .conftest import Host
from .fake_device.checks import calls, ends

DEVICES = ("Ascend", "GPU")
LONG = {"batch_size": 2, "epoch_size": 6}  # 144 batches: MindSpore queues the shapes of 128


@pytest.fixture(scope="module")
def on_cpu(images, library, tmp_path_factory):
    """The weights of the long run on the plain CPU, with MindSpore's operators."""
    host = Host(tmp_path_factory.mktemp("cpu"), library)
    options = {**LONG, "model": "device_tiny", "native_kernels": "false"}
    host.train("CPU", images, name="cpu", **options)
    return host.weights("cpu")


@pytest.mark.parametrize("sink", ["true", "false"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_long_run_ends_with_the_weights_of_the_plain_cpu(host, images, on_cpu, device, sink):
    host.train(device, images, name="run", dataset_sink_mode=sink, **LONG)
    assert host.weights("run") == on_cpu
    assert ends(host.records)[0]["updates"] == 144
    steps = calls(host.records[0], "DataWrapper" if sink == "true" else "TrainStep")
    assert len(steps) == 144
    assert {(step["phase"], step["training"]) for step in steps} == {("train", True)}
    compiled = [e for e in calls(host.records[0], "compile") if e["cell"] == steps[0]["cell"]]
    assert [entry["norms_train"] for entry in compiled] == [[True]]
