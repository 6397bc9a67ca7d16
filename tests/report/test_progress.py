"""Rank 0 shows a bar on a terminal and plain lines elsewhere; other ranks show nothing."""

from __future__ import annotations

import logging
import os
import pty
import subprocess
import sys

import pytest

from mindcv_ghost.report.logs import LOGGER_NAME
from mindcv_ghost.report.progress import Progress


class Clock:
    """A clock that advances by two seconds per call."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 2.0
        return self.now


@pytest.fixture
def lines(caplog):
    logger = logging.getLogger(LOGGER_NAME)
    propagate, logger.propagate = logger.propagate, True
    caplog.set_level(logging.INFO, logger=LOGGER_NAME)
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = propagate


def run(progress, steps, loss=2.34564, lr=0.04):
    for _ in range(steps):
        progress.update(loss, lr)


def test_a_line_is_logged_every_interval_and_at_the_end(lines):
    with Progress(7, 3, 90, images_per_step=64, log_interval=3, terminal=False) as progress:
        run(progress, 7)
    heads = [line.split(" loss")[0] for line in lines()]
    assert heads == ["epoch 3/90 step 3/7", "epoch 3/90 step 6/7", "epoch 3/90 step 7/7"]


def test_speed_and_remaining_time_leave_out_the_first_step(lines):
    progress = Progress(10, 1, 2, images_per_step=64, log_interval=5, terminal=False, clock=Clock())
    progress.update(9.0, 0.1)
    progress._clock.now += 100.0  # as if the first step had compiled the graph
    progress._first_time += 100.0
    run(progress, 4)
    # 2 s a step: 32 images/s; 5 steps of this epoch and 10 of the next are left: 30 s
    assert lines() == ["epoch 1/2 step 5/10 loss 2.3456 lr 0.0400 32.0 images/s eta 0:00:30"]


def test_remaining_time_includes_the_work_between_epochs(lines):
    progress = Progress(
        2, 1, 3, log_interval=2, terminal=False, between_epochs_seconds=10.0, clock=Clock()
    )
    run(progress, 2)
    assert lines()[-1].endswith("eta 0:00:38")  # 2 epochs x 2 steps x 2 s + 3 x 10 s


def test_unknown_speed_is_shown_as_a_dash(lines):
    Progress(1, 1, 1, images_per_step=8, terminal=False).update(1.0, 1e-5)
    assert lines() == ["epoch 1/1 step 1/1 loss 1.0000 lr 1.00e-05 - images/s eta -"]


def test_loss_is_fetched_only_if_it_is_shown(lines):
    fetched = []
    progress = Progress(100, 1, 1, log_interval=50, terminal=False)
    for step in range(100):
        progress.update(lambda step=step: fetched.append(step) or 0.5, lambda: 0.1)
    assert fetched == [49, 99]
    assert len(lines()) == 2


def test_other_ranks_show_and_fetch_nothing(lines, capsys):
    progress = Progress(1, 1, 1, enabled=False, terminal=True)
    progress.update(lambda: pytest.fail("fetched"), 0.1)
    assert lines() == [] and capsys.readouterr() == ("", "")


BAR_SCRIPT = """
import sys
from mindcv_ghost.report.logs import setup_logging
from mindcv_ghost.report.progress import Progress
logger = setup_logging(sys.argv[1])
with Progress(4, 1, 2, images_per_step=8, log_interval=2) as progress:
    for _ in range(4):
        progress.update(0.5, 0.1)
    logger.info("a line beside the bar")
logger.info("epoch 1/2 done")
"""


def test_a_terminal_gets_a_bar_and_unbroken_log_lines(tmp_path):
    # This terminal has the size 0 x 0, for which tqdm by default shows nothing.
    master, slave = pty.openpty()
    script = [sys.executable, "-c", BAR_SCRIPT, str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(script, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    shown = b""
    while True:
        try:
            piece = os.read(master, 4096)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    os.close(master)
    assert child.wait(timeout=60) == 0
    text = shown.decode()
    assert "epoch 1/2 100%|" in text and "4/4" in text and "loss 0.5000 lr 0.1000" in text
    assert "step 2/4" not in text, "the lines are for the file while a bar is shown"
    printed = [piece for piece in text.replace("\n", "\r").split("\r") if "beside" in piece]
    assert len(printed) == 1 and printed[0].rstrip().endswith("a line beside the bar")
    log = (tmp_path / "train.log").read_text()
    assert "epoch 1/2 step 2/4" in log and "epoch 1/2 step 4/4" in log and "done" in log
