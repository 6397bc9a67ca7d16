"""The composition root: turns a ``Config`` and a ``World`` into a run.

The scripts open a session (``session.open_session``: run folder, log, device, ranks). In it they
create a training (``training.create_training``) or a validation (``validation.create_validation``)
and call its ``run()``. Start reading at ``training.py``; its phases call ``parts.py`` (data,
network, facts), ``learner.py`` (what trains the network) and ``resume.py`` (the state to start
from).

Below this package no module sees the whole ``Config``: each gets one section or plain values. In
here, too, a function takes no more than it needs. Sections are read by ``parts`` (dataset,
augment), ``model`` (model), ``learner`` (train, optimizer, scheduler, loss, amp), ``session``
(system), ``teacher`` (distill), ``training`` (checkpoint) and ``validation`` (evaluate).

Importing this package loads nothing, and ``run.imports`` loads neither MindSpore nor MindCV.
"""
