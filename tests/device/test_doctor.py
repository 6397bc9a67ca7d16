"""The doctor on a device, where it also checks what it skips on the CPU."""

from __future__ import annotations

import json

import pytest

from mindcv_ghost.doctor.processes import IS_CHILD

from ..e2e.conftest import SOON_COMPILED
from .fake_device.checks import calls

pytestmark = pytest.mark.device

DOCTOR = "mindcv_ghost/doctor/__main__.py"
OPTIONS = ["--model", SOON_COMPILED, "--image_resize", "64", "--batch_size", "2", "--json"]
OPTIONS += ["--steps", "140"]  # more than the 128 batches whose shapes MindSpore queues
# SqueezeNet has no batch norm: at the doctor's 0.01, 140 steps on two images can leave float16's
# range, and whether they do depends on the processor's rounding.
OPTIONS += ["--lr", "0.001"]


@pytest.fixture(autouse=True)
def in_this_process(host):
    """Without this the doctor would start a child process, which wouldn't be on the fake device."""
    host.environ[IS_CHILD] = "1"


def states(done) -> dict[str, str]:
    return {check["what"]: check["state"] for check in done.json["checks"]}


@pytest.mark.parametrize(("device", "ranks"), [("Ascend", 2), ("GPU", 1)])
def test_the_doctor_trains_beyond_the_queues_capacity_with_and_without_sink_mode(
    host, device, ranks
):
    # A 910A whose second rank overflows in one step of the training.
    settings = {"FAKE_DEVICE_CHIP": "ascend910", "FAKE_DEVICE_OVERFLOWS": "1:9"}
    done = host.on(device, DOCTOR, "--device", device, *OPTIONS, ranks=ranks, **settings)
    found = states(done)
    alone = {"cluster", "AllReduce", "gather and broadcast", "equal ranks"}
    skipped = {"images"} | (alone if ranks == 1 else set())
    assert {name for name, state in found.items() if state == "skipped"} == skipped, done.err
    # The fake device's all-reduce is the CPU's, which is slow for a device.
    checked = {state for name, state in found.items() if name not in {*skipped, "AllReduce"}}
    assert checked == {"ok"}, done.err
    checks = {check["what"]: check for check in done.json["checks"]}
    assert "140 steps on one batch" in checks["sink mode"]["text"]
    assert len(calls(host.records[0], "DataWrapper")) == 140
    skipped_updates, scale = (checks["training"]["numbers"][k] for k in ("overflows", "loss_scale"))
    assert scale == 65536 / 2**skipped_updates
    assert skipped_updates >= ranks - 1
    numbers = [entry["id"] for record in host.records for entry in calls(record, "set_device")]
    assert numbers == list(range(ranks))


def test_a_driver_that_does_not_answer_is_broken_with_status_1(host):
    settings = {"FAKE_DEVICE_COUNT": "none"}
    done = host.on("Ascend", DOCTOR, "--device", "Ascend", *OPTIONS, status=1, **settings)
    assert states(done)["devices"] == "broken"
    assert json.loads(done.out.strip().splitlines()[-1])["status"] == 1
