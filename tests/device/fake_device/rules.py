"""The rules of the real back ends, with their sources.

``wheel:`` is MindSpore 2.8.0's package from PyPI. It contains no C++ sources; ``ccsrc:`` names a
file of MindSpore's public sources (a version near 2.8).
"""

from __future__ import annotations

__all__ = ["RULES", "RuleViolation", "violation"]

RULES = {
    "device id in range": (
        "a device's number is smaller than the number of devices that the process sees",
        'wheel:device_manager.py:53 "the value must be in [0, device_num_per_host-1]"',
    ),
    "one rank a device": (
        "no two ranks use the same device",
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
        "RANK_TABLE_FILE isn't set when ranks form a dynamic cluster: HCCL would read it",
        "ccsrc:cluster/topology/collective_manager.cc, CreateDeviceCommunicator, use_ranktable",
    ),
    "set_device before computing": (
        "set_device is called before anything is computed",
        'wheel:device_manager.py:91 "please set it before the kernel is executed"',
    ),
    "no host operators": (
        "a graph for a device holds no operator that is host code: an aot Custom operator is "
        "AscendC on Ascend, and CUDA on a GPU",
        'wheel:ops/operations/custom_ops.py:436 "self.is_ascend_c = "',
    ),
    "GetNext returns": (
        "GetNext waits for a batch forever: none will be sent",
        "ccsrc:minddata/dataset/engine/datasetops/data_queue_op.cc, SendRowToTdt",
    ),
    "get_data_info returns": (
        "get_data_info waits for a batch's shapes forever: none will be sent",
        "ccsrc:minddata/dataset/engine/datasetops/data_queue_op.cc, GetDataInfo",
    ),
    "batches fit the graph": (
        "a batch has the data types and shapes that GetNext was compiled for",
        'wheel:train/dataset_helper.py:101 "dataset_types, dataset_shapes, len(dataset_types)"',
    ),
    "connected networks take no inputs": (
        "a network that is connected to a data set is called without inputs",
        'wheel:train/dataset_helper.py:119 "def construct(self):"',
    ),
    "queue is not released": (
        "nothing is fetched from a released queue",
        'wheel:dataset/engine/datasets.py:4592 "Manually terminate Device Queue"',
    ),
    "senders are released": (
        "a sending thread is stopped and released before the process ends",
        'wheel:train/model.py:1160 "dataset_helper.stop_send()"',
    ),
    "ranks make the same calls": (
        "all ranks call the same collectives in the same order, with the same types and shapes",
        'wheel:ops/operations/comm_ops.py:106 "must have the same shape and format"',
    ),
}


class RuleViolation(Exception):
    """A call that a real device would refuse, or that would never return."""


def violation(rule: str, what: str) -> RuleViolation:
    """Return the error for a violated rule, and record it, because it may be caught."""
    from . import record

    text, source = RULES[rule]
    record.write("violation", rule=rule, what=what)
    return RuleViolation(f"{what}. Rule {rule!r}: {text} ({source})")
