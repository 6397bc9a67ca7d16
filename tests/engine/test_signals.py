"""Signals become requests while a run trains, and are themselves again afterwards."""

from __future__ import annotations

import os
import signal

import pytest

from mindcv_ghost.engine.signals import StopSignals, exit_status


@pytest.mark.parametrize(
    ("sent", "counts"),
    [
        (["SIGUSR1"], "SIGUSR1"),
        (["SIGUSR1", "SIGINT"], "SIGINT"),
        (["SIGTERM", "SIGINT", "SIGUSR1"], "SIGTERM"),
    ],
)
def test_the_gravest_signal_counts(sent, counts):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        for name in sent:
            os.kill(os.getpid(), getattr(signal, name))
        assert signals.number == getattr(signal, counts)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_warning_is_no_failure():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    assert [exit_status(number) for number in numbers] == [143, 130, 0]
