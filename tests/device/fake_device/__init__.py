"""A stand-in for MindSpore's Ascend and GPU back ends that computes on the CPU.

The real train.py runs on it, through everything that it does on a device: MindSpore's own Python
(``set_device``, ``DatasetHelper``, ``connect_network_with_dataset``, ``amp.all_finite``) stays, and
only what is C++ and needs a driver beneath it is replaced. Kernels are the CPU's.

What the real thing forbids, or would wait for for ever, raises a ``FakeDeviceError`` that names the
rule and where it comes from (``rules``). What was called is written down, a line of JSON each
(``record``).
"""
