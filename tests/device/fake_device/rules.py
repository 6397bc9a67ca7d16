"""What the real back ends demand, and where that can be read.

``wheel:`` is MindSpore 2.8.0's package from PyPI. C++ is not in it; ``ccsrc:`` names the file of
mindspore's public sources (a version near 2.8).
"""

from __future__ import annotations

__all__ = ["RULES", "FakeDeviceError", "broken"]

RULES = {
    "device id in range": (
        "the id of a device is below the number of devices that the process can see",
        'wheel:device_manager.py:53 "the value must be in [0, device_num_per_host-1]"',
    ),
    "one rank a device": (
        "each rank has a device of its own",
        'NCCL, init.cc: "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device"',
    ),
    "init after set_device": (
        "set_device comes before communication.init()",
        'wheel:device_manager.py:49 "before calling :func:`mindspore.communication.init`"',
    ),
    "init once": (
        "communication.init() is called once",
        'wheel:communication/management.py:193 "the backend is already initialized"',
    ),
    "init before computing": (
        "init() comes before any operator runs",
        'wheel:communication/management.py:135 "the instantiation and execution of any operation"',
    ),
    "init before tensors": (
        "init() comes before the script makes a Tensor",
        'wheel:communication/management.py:134 "before the definition of any Tensor and Parameter"',
    ),
    "no left-over rank table": (
        "RANK_TABLE_FILE isn't set where ranks form a dynamic cluster: HCCL would read it",
        "ccsrc:cluster/topology/collective_manager.cc, CreateDeviceCommunicator, use_ranktable",
    ),
    "set_device before computing": (
        "the device is named before anything is computed",
        'wheel:device_manager.py:91 "please set it before the kernel is executed"',
    ),
    "no host operators": (
        "a graph for a device holds no operator that is host code: an aot Custom operator is "
        "AscendC on Ascend, and CUDA on a GPU",
        'wheel:ops/operations/custom_ops.py:436 "self.is_ascend_c = "',
    ),
    "fetching ends": (
        "GetNext waits for a batch for ever: nobody is going to send one",
        "ccsrc:minddata/dataset/engine/datasetops/data_queue_op.cc, SendRowToTdt",
    ),
    "asking for shapes ends": (
        "get_data_info waits for the shapes of a batch for ever: nobody is going to send any",
        "ccsrc:minddata/dataset/engine/datasetops/data_queue_op.cc, GetDataInfo",
    ),
    "batches fit their graph": (
        "a batch has the data types and shapes that GetNext was compiled for",
        'wheel:train/dataset_helper.py:101 "dataset_types, dataset_shapes, len(dataset_types)"',
    ),
    "fetching is given nothing": (
        "a network that is connected with a data set is called without inputs",
        'wheel:train/dataset_helper.py:119 "def construct(self):"',
    ),
    "queue is not released": (
        "nothing is fetched from a queue that has been released",
        'wheel:dataset/engine/datasets.py:4592 "Manually terminate Device Queue"',
    ),
    "sending ends": (
        "a thread that sends is stopped and released before the process ends",
        'wheel:train/model.py:1160 "dataset_helper.stop_send()"',
    ),
    "ranks call alike": (
        "all ranks call the same collectives, with the same data types and shapes, in one order",
        'wheel:ops/operations/comm_ops.py:106 "must have the same shape and format"',
    ),
}


class FakeDeviceError(Exception):
    """Something that the real device would refuse, or never come back from."""


def broken(rule: str, what: str) -> FakeDeviceError:
    """The error for a broken rule; it is written down as well, as somebody may catch it."""
    from . import record

    text, source = RULES[rule]
    record.write("broken", rule=rule, what=what)
    return FakeDeviceError(f"{what}. Rule {rule!r}: {text} ({source})")
