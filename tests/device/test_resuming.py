"""Stopped runs can be resumed; with validation, EMA and a Ghost network of the zoo."""

from __future__ import annotations

import json
import signal

import pytest

from .conftest import rows, tiny
from .fake_device.checks import calls, final_states

pytestmark = pytest.mark.device
TIMINGS = {"images_per_second", "epoch_seconds", "compile_seconds"}


def check_same_table(host, name: str, other: str) -> None:
    """Compare two runs' metrics.csv, without times.

    The float32 loss that is logged may differ in its last digit, with equal weights
    (docs/reliability.md).
    """
    ours, theirs = (
        [{k: v for k, v in row.items() if k not in TIMINGS} for row in rows(host.cwd / run)]
        for run in (name, other)
    )
    losses = [[float(row.pop("loss")) for row in table] for table in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert ours == theirs


@pytest.mark.parametrize("sink", ["true", "false"])
@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_a_run_resumed_in_mid_epoch_ends_with_the_weights_of_an_uninterrupted_one(
    host, images, device, sink
):
    options = {"epoch_size": 3, "batch_size": 4, "ema": "true", "dataset_sink_mode": sink}
    options |= {"gradient_accumulation_steps": 2, "val_while_train": "true"}
    host.train(device, images, name="whole", **options)
    done = host.train_until(device, images, name="run", steps=14, number=signal.SIGTERM, **options)
    assert done.status == 143, done.out + done.err
    assert "stopped by SIGTERM" in done.out + done.err
    before = len(calls(host.records[0], "TrainStep", "DataWrapper"))
    assert 14 <= before < 36 and before % 12
    host.train(device, images, name="run", resume="auto", **options)
    assert len(calls(host.records[0], "TrainStep", "DataWrapper")) == 36 - before
    assert host.weights("run") == host.weights("whole")
    check_same_table(host, "run", "whole")


@pytest.mark.parametrize("sink", ["true", "false"])
def test_a_finished_run_goes_on_and_ends_like_a_whole_one(host, images, sink):
    options = {"batch_size": 4, "ema": "true", "dataset_sink_mode": sink}
    host.train("Ascend", images, name="whole", epoch_size=3, **options)
    host.train("Ascend", images, name="run", epoch_size=2, **options)
    host.train("Ascend", images, name="run", epoch_size=3, resume="auto", **options)
    assert len(calls(host.records[0], "TrainStep", "DataWrapper")) == 12
    assert host.weights("run") == host.weights("whole")
    check_same_table(host, "run", "whole")


@pytest.mark.parametrize("sink", ["true", "false"])
def test_two_ranks_stop_after_the_same_update_and_resume(host, images, sink):
    options = {"epoch_size": 3, "batch_size": 2, "ranks": 2, "dataset_sink_mode": sink}
    host.train("Ascend", images, name="whole", **options)
    host.train_until("Ascend", images, name="run", steps=8, number=signal.SIGTERM, **options)
    done = [len(calls(record, "TrainStep", "DataWrapper")) for record in host.records]
    assert done[0] == done[1] and 8 <= done[0] < 36
    host.train("Ascend", images, name="run", resume="auto", **options)
    first, second = final_states(host.records)
    assert first == second
    assert first["updates"] == 36
    assert host.weights("run") == host.weights("whole")


def test_a_run_resumed_before_its_last_batch_trains_on_it_in_sink_mode(host, images):
    """MindSpore doesn't queue the shapes of a single batch."""
    options = {"epoch_size": 1, "dataset_sink_mode": "true", "save_every_steps": 5}
    host.train("Ascend", images, name="whole", **options)
    states = sorted((host.cwd / "whole" / "resume").glob("*step5*"))
    assert len(states) == 1
    host.train("Ascend", images, name="run", resume=states[0], **options)
    assert len(calls(host.records[0], "TrainStep", "DataWrapper")) == 1
    assert host.weights("run") == host.weights("whole")


@pytest.mark.parametrize(("device", "ranks"), [("Ascend", 2), ("GPU", 1)])
def test_validate_reports_the_same_numbers_as_training(host, images, device, ranks):
    options = {"ema": "true", "val_while_train": "true", "batch_size": 4, "amp_level": "O2"}
    host.train(device, images, name="run", ranks=ranks, epoch_size=3, **options)
    trained = rows(host.cwd / "run")[-1]
    options_of_validation = tiny(images, device, "unused", batch_size=4, amp_level="O2")
    place = options_of_validation.index("--ckpt_save_dir")
    options_of_validation[place : place + 2] = ["--ckpt_path", "run/last.ckpt", "--use_ema", "true"]
    options_of_validation += ["--val_amp_level", "O2"]
    done = host.on(device, "validate.py", *options_of_validation, ranks=ranks)
    line = json.loads(done.out.strip().splitlines()[-1])
    assert (line["device"], line["ranks"], line["images"]) == (device, ranks, 77)
    assert float(trained["top1"]) == pytest.approx(line["top1"], abs=1e-3)
    assert float(trained["val_loss"]) == pytest.approx(line["loss"], rel=1e-5)
    for record in host.records:
        evaluated = calls(record, "Logits")
        assert {(entry["phase"], entry["training"]) for entry in evaluated} == {("predict", False)}


def test_a_ghost_network_trains_in_float16_on_two_ascend_that_saturate(host, images):
    """Many options at once, on two devices of which one overflows."""
    options = {
        "model": "ghost_resnet20_cifar",
        "amp_level": "O2",
        "loss_scale_type": "dynamic",
        "loss_scale": 1024,
        "batch_size": 8,
        "val_while_train": "true",
        "dataset_sink_mode": "true",
        "sync_bn": "true",
        "clip_grad": "true",
        "FAKE_DEVICE_CHIP": "ascend910",
        "FAKE_DEVICE_OVERFLOWS": "1:2",
    }
    done = host.train("Ascend", images, name="run", ranks=2, **options)
    first, second = final_states(host.records)
    assert first == second
    assert (first["updates"], first["scale"]) == (5, 512)
    assert "2 x Ascend (openmpi), graph mode" in done.out + done.err
    facts = json.loads((host.cwd / "run" / "run.json").read_text())
    assert (facts["device"], facts["jit_level"], facts["ranks"]) == ("Ascend", "O2", 2)
    assert [row["epoch"] for row in rows(host.cwd / "run")] == ["1", "2"]
