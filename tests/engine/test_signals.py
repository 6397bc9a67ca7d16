"""Signals are recorded while a run trains; afterwards the old handlers are restored."""

from __future__ import annotations

import os
import signal

import pytest

from mindcv_ghost.engine.signals import StopSignals, exit_status


@pytest.mark.parametrize(
    ("sent", "recorded"),
    [
        (["SIGUSR1"], "SIGUSR1"),
        (["SIGUSR1", "SIGINT"], "SIGINT"),
        (["SIGTERM", "SIGINT", "SIGUSR1"], "SIGTERM"),
    ],
)
def test_of_several_signals_the_one_with_the_highest_priority_is_recorded(sent, recorded):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        for name in sent:
            os.kill(os.getpid(), getattr(signal, name))
        assert signals.number == getattr(signal, recorded)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigusr1_ends_with_status_0_and_other_signals_with_128_plus_their_number():
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    assert [exit_status(number) for number in numbers] == [143, 130, 0]
