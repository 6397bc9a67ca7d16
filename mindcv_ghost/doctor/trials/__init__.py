"""The doctor's checks that need MindSpore: communication, a short training, saving and resuming.

Input: a ``TrialSession`` (``session.py``): the configuration, the ranks, the device and the
collectives. Output: a ``CheckResult`` of each check. Start reading at ``training.py``, which builds
the network and trains it on one repeated batch; ``reference.py`` computes the first step in float32
on the CPU.
``doctor/checks.py`` imports these modules within its checks: if MindSpore can't be loaded, that is
a result, and the other checks still run.
"""
