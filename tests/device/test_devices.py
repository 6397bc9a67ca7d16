"""Which device a process takes, and the error if it can't have one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import rows, tiny
from .fake_device.checks import all_reduce_shapes, calls, final_states
from .fake_device.settings import visible

pytestmark = pytest.mark.device
DEVICES = ("Ascend", "GPU")


def ids(record: list[dict]) -> list[tuple[str, int]]:
    """Return the arguments of set_device, in order."""
    return [(entry["target"], entry["id"]) for entry in calls(record, "set_device")]


@pytest.mark.parametrize("device", DEVICES)
def test_each_rank_sets_its_own_device_once_and_before_init(host, images, device):
    host.train(device, images, name="run", ranks=2, batch_size=4, epoch_size=1)
    assert [ids(record) for record in host.records] == [[(device, 0)], [(device, 1)]]
    for record in host.records:
        order = [entry["call"] for entry in calls(record, "set_device", "init", "compile", "cell")]
        assert order[:3] == ["set_device", "init", "compile"]
        assert order.count("init") == 1
        assert len(all_reduce_shapes(record)) <= 3  # each one is a graph to compile
        assert {kind for kind, _ in all_reduce_shapes(record)} == {"Float32"}


def test_eight_ranks_take_eight_devices_and_end_in_the_same_state(host, images):
    """Open MPI's local ranks aren't always in the order of the ranks."""
    options = {"batch_size": 2, "epoch_size": 1, "dataset_sink_mode": "true", "amp_level": "O2"}
    options |= {"loss_scale_type": "dynamic", "FAKE_DEVICE_OVERFLOWS": "5:1"}
    options["FAKE_DEVICE_CHIP"] = "ascend910"
    host.train("Ascend", images, name="run", ranks=8, **options)
    named = [ids(record) for record in host.records]
    assert sorted(named) == [[("Ascend", number)] for number in range(8)]
    first, *others = final_states(host.records)
    assert all(other == first for other in others)
    assert first["updates"] == 2  # of three batches of sixteen


@pytest.mark.parametrize("device", DEVICES)
def test_each_rank_of_msrun_takes_its_own_device(host, images, device):
    options = tiny(images, device, "run", batch_size=4, epoch_size=1)
    host.on(device, "train.py", *options, ranks=2, launcher="msrun")
    assert [ids(record) for record in host.records] == [[(device, 0)], [(device, 1)]]


def test_an_ascend_compiles_with_jit_level_O2_and_a_gpu_with_O0(host, images):
    levels = {}
    for device in DEVICES:
        host.train(device, images, name=device, epoch_size=1)
        found = [entry.get("jit_config") for entry in calls(host.records[0], "set_context")]
        levels[device] = [level for level in found if level]
    assert levels == {"Ascend": ["{'jit_level': 'O2'}"], "GPU": ["{'jit_level': 'O0'}"]}


@pytest.mark.parametrize("device", DEVICES)
def test_more_ranks_than_devices_are_refused_with_both_numbers(host, images, device):
    done = host.train(device, images, name="run", ranks=4, status=2, FAKE_DEVICE_COUNT=2)
    output = done.out + done.err
    assert f"4 ranks were started on this host, but each can use only 2 of its {device}" in output
    assert "mpirun -n 2" in output and "Traceback" not in output
    assert all(ids(record) == [] for record in host.records)


def test_a_single_process_takes_the_device_of_DEVICE_ID(host, images):
    host.train("Ascend", images, name="run", epoch_size=1, DEVICE_ID=3)
    assert ids(host.records[0]) == [("Ascend", 3)]
    done = host.train("GPU", images, name="run", status=2, DEVICE_ID=8)
    assert "DEVICE_ID=8: this process can use 8 GPU devices" in done.out + done.err


def test_ranks_that_each_see_one_device_take_number_0(host, images, tmp_path):
    """srun --gpus-per-task=1 starts ranks like this."""
    train = tmp_path / "one_device_each.py"
    train.write_text(
        "import os, runpy, sys\n"
        "os.environ['CUDA_VISIBLE_DEVICES'] = os.environ['OMPI_COMM_WORLD_LOCAL_RANK']\n"
        "sys.path.insert(0, os.environ['PACKAGE_ROOT'])\n"
        "runpy.run_path(os.environ['PACKAGE_ROOT'] + '/train.py', run_name='__main__')\n"
    )
    host.environ["PACKAGE_ROOT"], host.root = str(host.root), tmp_path
    options = tiny(images, "GPU", "run", batch_size=4, epoch_size=1)
    host.on("GPU", train.name, *options, ranks=2)
    assert [ids(record) for record in host.records] == [[("GPU", 0)], [("GPU", 0)]]


def test_ranks_that_share_the_only_device_are_refused(host, images):
    """With CUDA_VISIBLE_DEVICES=3 for a whole job each rank sees one device, the same one."""
    done = host.train("GPU", images, name="run", ranks=2, status=2, CUDA_VISIBLE_DEVICES=3)
    message = "2 ranks were started on this host, but each can use only 1 of its GPU devices"
    assert f"{message}, CUDA_VISIBLE_DEVICES=3" in done.out + done.err
    assert all(ids(record) == [] for record in host.records)


@pytest.mark.parametrize("device", DEVICES)
def test_auto_chooses_the_cpu_where_no_driver_answers(host, images, device):
    options = {"device_target": "auto", "epoch_size": 1, "native_kernels": "false"}
    done = host.train(device, images, name="run", FAKE_DEVICE_COUNT="none", **options)
    assert ids(host.records[0]) == [("CPU", 0)]
    assert f"auto chooses the CPU: {device}'s driver doesn't answer" in done.out + done.err
    facts = json.loads((host.cwd / "run" / "run.json").read_text())
    assert facts["device"] == "CPU"
    assert len(rows(Path(host.cwd / "run"))) == 1


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_whose_driver_does_not_answer_is_refused(host, images, device):
    done = host.train(device, images, name="run", status=2, FAKE_DEVICE_COUNT="none")
    message = {"Ascend": "aclrtGetDeviceCount", "GPU": "cudaGetDeviceCount"}[device]
    assert message in done.out + done.err and "Traceback" not in done.err


@pytest.mark.parametrize("device", DEVICES)
def test_auto_takes_the_device(host, images, device):
    host.train(device, images, name="run", device_target="auto", epoch_size=1)
    assert ids(host.records[0]) == [(device, 0)]


def test_visible_devices_are_parsed_like_cuda_and_cann():
    assert visible("GPU", 8, {}) == tuple(range(8))
    assert visible("GPU", 8, {"CUDA_VISIBLE_DEVICES": ""}) == ()
    assert visible("GPU", 8, {"CUDA_VISIBLE_DEVICES": "5, 1"}) == (5, 1)
    assert visible("Ascend", 8, {"ASCEND_RT_VISIBLE_DEVICES": "1, 2,3"}) == (1,)
