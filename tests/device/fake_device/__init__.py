"""A fake Ascend and a fake GPU: MindSpore's device back ends, replaced by code for the CPU.

The real train.py takes its device branch on it. MindSpore's Python (``set_device``,
``DatasetHelper``, ``connect_network_with_dataset``, ``amp.all_finite``) stays; only the C++ beneath
it, which needs a driver, is replaced. Kernels are the CPU's.

What a real device refuses, or would wait for forever, raises a ``RuleViolation`` that names the
rule and its source (``rules.py``). Calls are recorded, one line of JSON each (``record.py``).
Start reading at ``install.py``, which puts everything in place.
"""
