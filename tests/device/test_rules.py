"""The fake device itself: each rule's violation is detected, and nothing else is."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import mindspore
import numpy as np
import pytest

from .conftest import ON_DEVICE, Host
from .fake_device.checks import check_records
from .fake_device.data_queue import INFO_CAPACITY, Queue, Sender
from .fake_device.rules import RULES, RuleViolation

PROGRAMS = ON_DEVICE.with_name("violations.py")


def batches(count: int, fails_at: int | None = None):
    for number in range(count):
        if number == fails_at:
            raise ValueError(f"bad batch {number}")
        yield [np.full((2, 3), number, np.float32), np.array([number, number], np.int32)]


class Pipeline:
    """Has the part of MindSpore's data sets that a sender uses."""

    def __init__(self, count: int, fails_at: int | None = None) -> None:
        self.count, self.fails_at = count, fails_at

    def create_tuple_iterator(self, num_epochs, output_numpy, do_copy):
        return batches(self.count, self.fails_at)


def start_sending(count: int, fails_at: int | None = None, **more) -> tuple[Queue, Sender]:
    queue = Queue("q", **{"capacity": 16, "with_info": True, "info_first": False, **more})
    sender = Sender(Pipeline(count, fails_at), queue, 1)
    sender.send()
    return queue, sender


@pytest.mark.parametrize("info_first", [True, False])
def test_a_consumer_that_reads_the_shapes_gets_every_batch(info_first):
    queue, sender = start_sending(300, info_first=info_first)
    for number in range(300):
        assert queue.next_info() == ([np.float32, np.int32], [[2, 3], [2]])
        assert queue.fetch()[0][0, 0] == number
    with pytest.raises(RuleViolation, match="batch 300 of a queue whose sender is ended"):
        queue.fetch()
    with pytest.raises(RuleViolation, match="shapes of batch 300"):
        queue.next_info()
    sender.stop_send()
    sender.release()


@pytest.mark.parametrize(("info_first", "fetched"), [(True, 128), (False, 129)])
def test_a_consumer_that_does_not_read_the_shapes_would_wait_forever(info_first, fetched):
    """Ascend's sender queues a batch before its shapes, a GPU's after them."""
    assert INFO_CAPACITY == 128
    queue, sender = start_sending(300, info_first=info_first)
    for _ in range(fetched):
        queue.fetch()
    with pytest.raises(RuleViolation, match="waiting for room in the info queue"):
        queue.fetch()
    sender.release()


def test_the_data_queue_has_a_capacity():
    queue, sender = start_sending(300, with_info=False)
    for _ in range(200):
        queue.fetch()
    with queue._change:
        assert queue._change.wait_for(lambda: queue._wants_room and len(queue._data) == 16, 5)
    assert (queue.sent, queue.fetched) == (216, 200)
    sender.release()
    assert not sender._thread.is_alive()


def test_the_senders_error_is_raised_for_the_shapes_and_not_for_the_batch():
    queue, sender = start_sending(10, fails_at=3)
    sender._thread.join(5)
    with pytest.raises(RuntimeError, match="ValueError: bad batch 3"):
        queue.next_info()  # at once, though three good batches are queued
    for _ in range(3):
        queue.fetch()
    with pytest.raises(RuleViolation, match="bad batch 3.*GetNext waits for a batch forever"):
        queue.fetch()
    sender.release()


def test_a_consumer_waits_for_a_slow_sender():
    gate = threading.Event()

    class Slow(Pipeline):
        def create_tuple_iterator(self, num_epochs, output_numpy, do_copy):
            gate.wait(0.2)
            yield from batches(1)

    queue = Queue("q", 16, True, False)
    sender = Sender(Slow(1), queue, 1)
    sender.send()
    assert queue.next_info()[1] == [[2, 3], [2]]
    assert queue.fetch()[1].tolist() == [0, 0]
    sender.release()


def test_fetching_from_a_released_queue_is_a_violation():
    queue, sender = start_sending(3)
    sender.release()
    with pytest.raises(RuleViolation, match="queue q is released"):
        queue.fetch()


def test_records_of_ranks_with_different_collectives_are_refused():
    def call(shape, cell="_AllReduceSum"):
        inputs = [["Float32", shape]]
        return {
            "call": "cell",
            "cell": cell,
            "phase": "train",
            "inputs": inputs,
            "collective": True,
        }

    check_records([[call([3])], [call([3])]])
    with pytest.raises(RuleViolation, match="differ at their collective number 1"):
        check_records([[call([3]), call([4])], [call([3]), call([5])]])
    with pytest.raises(RuleViolation, match="differ at their collective number 1"):
        check_records([[call([3])], [call([3]), call([3])]])


def test_records_of_a_sender_that_is_not_released_are_refused():
    start, stop, end = {"call": "send"}, {"call": "stop_send"}, {"call": "release", "ended": True}
    check_records([[start, stop, end]])
    for record in ([start], [start, end], [start, stop], [start, stop, {**end, "ended": False}]):
        with pytest.raises(RuleViolation, match="stop_send|senders"):
            check_records([record])


@pytest.fixture
def fake(tmp_path, library) -> Host:
    return Host(tmp_path, library, PROGRAMS.parent)


# Function of violations.py -> the violated rule, or a part of MindSpore's own message.
VIOLATIONS = {
    "sets_a_device_that_does_not_exist": "device id in range",
    "computes_before_set_device": "set_device before computing",
    "inits_before_set_device": "init after set_device",
    "inits_after_computing": "init before computing",
    "inits_after_creating_a_tensor": "init before tensors",
    "inits_with_a_rank_table": "no left-over rank table",
    "runs_a_host_operator": "no host operators",
    "connects_only_once": "GetNext returns",
    "passes_inputs_to_a_connected_network": "connected networks take no inputs",
    "runs_a_graph_with_another_shape": "batches fit the graph",
    "fetches_after_the_last_batch": "get_data_info returns",
    "fetches_from_a_released_queue": "queue is not released",
    "sets_two_devices": "can not be modified",
    "sets_another_kind_of_device": "Unsupported device target",
    "uses_sink_mode_on_the_cpu": "dataset sink mode is not supported",
}


# Cases in which Ascend and GPU differ.
ON_GPU = ("connects_only_once", "runs_a_host_operator", "sets_another_kind_of_device")


@pytest.mark.device
@pytest.mark.parametrize(
    ("device", "name"),
    [*(("Ascend", name) for name in VIOLATIONS), *(("GPU", name) for name in ON_GPU)],
)
def test_a_violation_ends_the_program_and_names_the_rule(fake, device, name):
    rule = VIOLATIONS[name]
    done = fake.on(device, PROGRAMS.name, name, status=1)
    last = done.err.strip().splitlines()
    assert any(rule in line for line in last), done.err
    violated = [entry["rule"] for record in fake.records for entry in record if "rule" in entry]
    assert violated == ([rule] if rule in RULES else [])


@pytest.mark.device
@pytest.mark.parametrize("device", ["Ascend", "GPU"])
def test_a_legal_program_violates_no_rule(fake, device):
    fake.on(device, PROGRAMS.name, "violates_no_rule")


@pytest.mark.device
@pytest.mark.parametrize("mode", ["", "SATURATION_MODE"])
@pytest.mark.parametrize("chip", ["ascend910", "ascend910b"])
def test_all_finite_depends_on_the_chip(fake, chip, mode):
    """A 910A, and a 910B that saturates, read and clear the register and ignore the values."""
    settings = {"FAKE_DEVICE_CHIP": chip, "MS_ASCEND_CHECK_OVERFLOW_MODE": mode}
    done = fake.on("Ascend", PROGRAMS.name, "prints_all_finite", **settings)
    by_register = chip == "ascend910" or mode == "SATURATION_MODE"
    # Good values; values with an infinity; good values with the register raised; the same again.
    expected = [True, True, False, True] if by_register else [True, False, True, True]
    assert done.out.split() == [str(value) for value in expected]


@pytest.mark.device
def test_saturation_turns_infinities_into_the_largest_number_and_nan_into_zero(fake):
    printed = {}
    for chip in ("ascend910", "ascend910b"):
        done = fake.on("Ascend", PROGRAMS.name, "prints_gradients", FAKE_DEVICE_CHIP=chip)
        printed[chip] = done.out.split()
    assert printed["ascend910b"] == ["inf", "nan", "2.0", "False"]
    assert printed["ascend910"] == ["3.4028234663852886e+38", "0.0", "2.0", "True"]


@pytest.mark.parametrize("rule", RULES)
def test_a_rules_source_is_where_it_says(rule):
    text, source = RULES[rule]
    assert len(text) > 20
    cited = re.fullmatch(r'wheel:([\w/.]+):(\d+) "(.+)"', source)
    if cited is None:
        assert source.startswith(("ccsrc:", "NCCL"))
        return
    if mindspore.__version__ != "2.8.0":
        pytest.skip("lines of MindSpore 2.8.0 are cited")
    lines = (Path(mindspore.__file__).parent / cited[1]).read_text().splitlines()
    assert cited[3] in lines[int(cited[2]) - 1]
