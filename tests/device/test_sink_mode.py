"""Sink mode: the device fetches its batches from a queue that threads fill."""

from __future__ import annotations

import shutil

import pytest

from .conftest import Host
from .fake_device.checks import calls, final_states

DEVICES = ("Ascend", "GPU")
LONG = {"batch_size": 2, "epoch_size": 6}  # 144 batches: MindSpore queues the shapes of 128


@pytest.fixture(scope="module")
def on_cpu(images, library, tmp_path_factory):
    """The weights of the long run on an unchanged MindSpore, with its CPU operators."""
    host = Host(tmp_path_factory.mktemp("cpu"), library)
    options = {**LONG, "model": "device_tiny", "native_kernels": "false"}
    host.train("CPU", images, name="cpu", **options)
    return host.weights("cpu")


@pytest.mark.parametrize(
    ("device", "sink"),
    [
        *(("Ascend", "true"), ("GPU", "false")),
        pytest.param("Ascend", "false", marks=pytest.mark.device),
        pytest.param("GPU", "true", marks=pytest.mark.device),
    ],
)
def test_a_long_run_ends_with_the_weights_of_the_cpu(host, images, on_cpu, device, sink):
    host.train(device, images, name="run", dataset_sink_mode=sink, **LONG)
    assert host.weights("run") == on_cpu
    assert final_states(host.records)[0]["updates"] == 144
    steps = calls(host.records[0], "DataWrapper" if sink == "true" else "TrainStep")
    assert len(steps) == 144
    assert {(step["phase"], step["training"]) for step in steps} == {("train", True)}
    compiled = [e for e in calls(host.records[0], "compile") if e["cell"] == steps[0]["cell"]]
    assert [entry["norms_train"] for entry in compiled] == [[True]]


@pytest.mark.device
@pytest.mark.parametrize("native", ["true", "false"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_short_last_batch_has_its_own_graph(host, images, device, native):
    options = {"batch_size": 5, "drop_remainder": "false", "native_loader": native}
    host.train(device, images, name="sink", dataset_sink_mode="true", epoch_size=3, **options)
    record = host.records[0]
    wrapped = calls(record, "wrap")
    assert [entry["shapes"][0][0] for entry in wrapped] == [5, 3]
    steps = calls(record, "DataWrapper")
    assert [step["inputs"][0][1][0] for step in steps] == 3 * ([5] * 9 + [3])
    assert len([e for e in calls(record, "compile") if e["cell"] == "DataWrapper"]) == 2
    host.train("Ascend", images, name="no_sink", dataset_sink_mode="false", epoch_size=3, **options)
    if native == "true":  # MindSpore's operations draw other numbers in a pipeline of many epochs
        assert host.weights("sink") == host.weights("no_sink")


@pytest.mark.device
@pytest.mark.parametrize("device", DEVICES)
def test_accumulation_gives_the_same_weights_with_and_without_sink_mode(host, images, device):
    options = {"gradient_accumulation_steps": 4, "epoch_size": 3, "ema": "true"}
    for name, sink in {"sink": "true", "no_sink": "false"}.items():
        host.train(device, images, name=name, dataset_sink_mode=sink, **options)
        assert final_states(host.records)[0]["updates"] == 6
    assert host.weights("sink") == host.weights("no_sink")


@pytest.fixture
def a_bad_image(images, tmp_path):
    """The images, one of them truncated within its header."""
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
    for name, sink in {"sink": "true", "no_sink": "false"}.items():
        options = {"batch_size": 2, "native_loader": native, "dataset_sink_mode": sink}
        done = host.train(device, folder, name=name, status=2, **options)
        assert str(bad) in done.out + done.err
        assert "Traceback" not in done.err
        assert calls(host.records[0], "violation") == []
        steps[name] = len(calls(host.records[0], "DataWrapper", "TrainStep"))
    assert steps["sink"] == steps["no_sink"] < 24
    # In this seed's order the bad image isn't in the first batch.
    assert steps["sink"] > 0


@pytest.mark.device
@pytest.mark.parametrize("device", DEVICES)
def test_a_bad_image_of_the_only_batch_ends_the_run(host, a_bad_image, device):
    """MindSpore doesn't queue the shapes of a single batch, so nothing waits for it."""
    folder, bad = a_bad_image
    options = {"batch_size": 48, "epoch_size": 1, "dataset_sink_mode": "true"}
    done = host.train(device, folder, name="run", status=2, **options)
    assert str(bad) in done.out + done.err
    assert not (host.cwd / "run" / "last.ckpt").exists()


@pytest.mark.device
def test_two_ranks_end_with_the_same_weights_with_and_without_sink_mode(host, images):
    for name, sink in {"sink": "true", "no_sink": "false"}.items():
        host.train("Ascend", images, name=name, dataset_sink_mode=sink, ranks=2, batch_size=4)
        first, second = final_states(host.records)
        assert first == second
        assert first["updates"] == 12
    assert host.weights("sink") == host.weights("no_sink")


@pytest.mark.device
@pytest.mark.parametrize("sink", ["true", "false"])
def test_a_bad_image_on_one_rank_ends_all_ranks(host, a_bad_image, sink):
    folder, bad = a_bad_image
    options = {"batch_size": 4, "dataset_sink_mode": sink, "ranks": 2, "status": 2}
    done = host.train("Ascend", folder, name="run", **options)
    assert str(bad) in done.out + done.err
    assert "Traceback" not in done.out + done.err
    assert [calls(record, "violation") for record in host.records] == [[], []]
