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


@pytest.mark.device
@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_short_last_batch_has_a_graph_of_its_own(host, images, device, native):
    options = {"batch_size": 5, "drop_remainder": "false", "native_loader": native}
    host.train(device, images, name="sunk", dataset_sink_mode="true", epoch_size=3, **options)
    sunk = host.records[0]
    wrapped = calls(sunk, "wrap")
    assert [entry["shapes"][0][0] for entry in wrapped] == [5, 3]
    steps = calls(sunk, "DataWrapper")
    assert [step["inputs"][0][1][0] for step in steps] == 3 * ([5] * 9 + [3])
    assert len([e for e in calls(sunk, "compile") if e["cell"] == "DataWrapper"]) == 2
    host.train("Ascend", images, name="fed", dataset_sink_mode="false", epoch_size=3, **options)
    if native == "true":  # MindSpore's operations draw otherwise in a pipeline of many epochs
        assert host.weights("sunk") == host.weights("fed")


@pytest.mark.device
@pytest.mark.parametrize("device", DEVICES)
def test_accumulation_sinks_as_it_is_fed(host, images, device):
    options = {"gradient_accumulation_steps": 4, "epoch_size": 3, "ema": "true"}
    for name, sink in {"sunk": "true", "fed": "false"}.items():
        host.train(device, images, name=name, dataset_sink_mode=sink, **options)
        assert ends(host.records)[0]["updates"] == 6
    assert host.weights("sunk") == host.weights("fed")


@pytest.fixture
def a_bad_image(images, tmp_path):
    """The images with one of them cut in its header."""
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    bad = folder / "train" / "cat" / "cat_005.jpg"
    bad.write_bytes(bad.read_bytes()[:200])
    return folder, bad


@pytest.mark.device
@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_image_ends_the_run_at_its_batch(host, a_bad_image, device, native):
    folder, bad = a_bad_image
    steps = {}
    for name, sink in {"sunk": "true", "fed": "false"}.items():
        options = {"batch_size": 2, "native_loader": native, "dataset_sink_mode": sink}
        done = host.train(device, folder, name=name, status=2, **options)
        assert str(bad) in done.out + done.err
        assert "Traceback" not in done.err
        assert calls(host.records[0], "broken") == []
        steps[name] = len(calls(host.records[0], "DataWrapper", "TrainStep"))
    assert steps["sunk"] == steps["fed"] < 24
    # The order is that of the seed: the image's batch isn't the first.
    assert steps["sunk"] > 0


@pytest.mark.device
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_image_of_the_only_batch_ends_the_run(host, a_bad_image, device):
    """MindSpore queues no shapes of a single batch, so nobody waits until it is made."""
    folder, bad = a_bad_image
    options = {"batch_size": 48, "epoch_size": 1, "dataset_sink_mode": "true"}
    done = host.train(device, folder, name="run", status=2, **options)
    assert str(bad) in done.out + done.err
    assert not (host.cwd / "run" / "last.ckpt").exists()


@pytest.mark.device
def test_two_ranks_sink_as_they_are_fed(host, images):
    for name, sink in {"sunk": "true", "fed": "false"}.items():
        host.train("Ascend", images, name=name, dataset_sink_mode=sink, ranks=2, batch_size=4)
        first, second = ends(host.records)
        assert first == second
        assert first["updates"] == 12
    assert host.weights("sunk") == host.weights("fed")


@pytest.mark.device
@pytest.mark.parametrize("sink", ["true", "false"])
def test_a_bad_image_of_one_rank_ends_all(host, a_bad_image, sink):
    folder, bad = a_bad_image
    options = {"batch_size": 4, "dataset_sink_mode": sink, "ranks": 2, "status": 2}
    done = host.train("Ascend", folder, name="run", **options)
    assert str(bad) in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert [calls(record, "broken") for record in host.records] == [[], []]
