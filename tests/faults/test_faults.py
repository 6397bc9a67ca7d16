"""After any fault a run can be resumed, and ends bit for bit like a run without faults."""

from __future__ import annotations

import os
import random
import resource
import signal
import time

import pytest

from .conftest import END_SECONDS, STOP_SECONDS, Run, counts

pytestmark = pytest.mark.faults
STATUS = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0}
SEEDS = 20


def stop(run: Run, draw: random.Random) -> None:
    """Send a signal at a random step: the run saves, and exits with the signal's status."""
    number = draw.choice(list(STATUS))
    if run.wait_for_step(draw.randint(1, 5)):
        run.injects()
        run.send(number)
    status = run.end(STOP_SECONDS)
    if run.ranks == 1 and f"stopped by {number.name}" in run.text:
        assert status == STATUS[number]


def kill(run: Run, draw: random.Random) -> None:
    """SIGKILL a random process at a random step."""
    if run.wait_for_step(draw.randint(1, 6)):
        run.injects()
        run.kill_one(draw)
    run.end(END_SECONDS)


def kill_within_a_save(run: Run, draw: random.Random) -> None:
    """SIGKILL a random process while a state is being written."""
    if run.wait_for_save():
        time.sleep(draw.random() * 0.05)
        run.injects()
        run.kill_one(draw)
    run.end(END_SECONDS)


def damage(run: Run, draw: random.Random) -> None:
    """Cut the newest state or flip a bit of it, if there is an older one."""
    states = run.states()
    if len(states) < 2:
        return
    run.injects()
    data = bytearray(states[-1].read_bytes())
    if draw.random() < 0.5:
        data = data[: draw.randrange(len(data))]
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    states[-1].write_bytes(data)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_an_interrupted_run_ends_like_an_uninterrupted_one(new_run, whole, ranks, seed):
    draw = random.Random(100 * ranks + seed)
    run = new_run(ranks)
    for number in range(3 if seed % 5 == 0 else 1):
        fault = (stop, kill, kill_within_a_save)[(seed + number) % 3]
        slow = {"WRITE_SECONDS": 0.02} if fault is kill_within_a_save else {"STEP_SECONDS": 0.1}
        run.start(**slow)
        fault(run, draw)
        assert run.injected or number
        if draw.random() < 0.4:
            damage(run, draw)
    run.finish()
    run.is_equal_to(whole(ranks))


@pytest.mark.parametrize("number", STATUS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_after_a_signal_the_run_saves_and_exits_with_its_status(new_run, whole, number, ranks):
    run = new_run(ranks)
    run.start(STEP_SECONDS=0.1)
    assert run.wait_for_step(3)
    run.injects()
    began = time.monotonic()
    run.send(number)
    status = run.end(STOP_SECONDS)
    assert time.monotonic() - began < STOP_SECONDS
    assert len(run.states()) >= 2
    if ranks == 1:
        assert status == STATUS[number]
        assert f"stopped by {number.name}" in run.text
        assert "--resume auto continues from here" in run.text
    run.finish()
    run.is_equal_to(whole(ranks))


def test_a_second_interrupt_ends_the_run_at_once(new_run, whole):
    run = new_run()
    run.start(STEP_SECONDS=2)
    assert run.wait_for_step(1)
    run.injects()
    began = time.monotonic()
    run.send(signal.SIGINT)
    time.sleep(0.6)
    run.send(signal.SIGINT)
    assert run.end(5) == 130
    assert "interrupted twice" in run.text
    assert time.monotonic() - began < 3
    run.finish()
    run.is_equal_to(whole(1))


def limit_files(run: Run, size: int) -> None:
    for pid in run.alive():
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_run_survives_a_disk_that_is_full_for_a_while(new_run, whole):
    """A limit on file sizes, as a quota would set it, makes two saves fail and is then lifted."""
    run = new_run()
    run.start(STEP_SECONDS=0.3)
    assert run.wait_for_step(2)
    run.injects()
    limit_files(run, 4096)
    while run.text.count("NOT SAVED") < 2:
        time.sleep(0.02)
        assert run.process.poll() is None, run.text
    limit_files(run, resource.RLIM_INFINITY)
    assert run.end(60) == 0
    assert "File too large" in run.text and "Training goes on" in run.text
    assert "Traceback" not in run.text
    run.is_equal_to(whole(1))


def test_a_disk_that_stays_full_ends_the_run_which_can_be_resumed(new_run, whole):
    run = new_run()
    run.start(STEP_SECONDS=0.1)
    assert run.wait_for_step(3)
    run.injects()
    limit_files(run, 4096)
    assert run.end(60) == 2
    assert "3rd save in a row that failed" in run.text and "Traceback" not in run.text
    run.finish()
    run.is_equal_to(whole(1))


def test_a_run_folder_that_vanishes_ends_the_run_which_can_be_resumed(new_run, whole):
    run = new_run()
    run.start(STEP_SECONDS=0.1)
    assert run.wait_for_step(3)
    run.injects()
    os.rename(run.run, run.folder / "unmounted")
    assert run.end(60) == 2
    assert "3rd save in a row that failed" in run.text and "Traceback" not in run.text
    assert not run.run.exists()  # not recreated beneath the mount point
    os.rename(run.folder / "unmounted", run.run)
    run.finish()
    run.is_equal_to(whole(1))


def test_a_run_folder_that_cannot_be_written_is_refused_before_the_first_step(new_run):
    run = new_run()
    run.options[run.options.index(str(run.run))] = "/proc/run"
    run.injects()
    run.start()
    assert run.end(60) == 2
    assert "run folder /proc/run can't be written" in run.text and "Traceback" not in run.text
    counts["survived"] += 1


def test_another_number_of_ranks_resumes_from_the_end_of_an_epoch(new_run):
    run = new_run(2)
    run.start(STEP_SECONDS=0.1)
    assert run.wait_for_step(8)  # within the second epoch of six
    run.injects()
    run.kill_one(random.Random(1))
    run.end(END_SECONDS)
    run.ranks = 1
    run.finish()
    assert "where ranks can't change: going back to" in run.text
    assert "from here on ranks: 2 before, 1 now" in run.text
    assert [row["epoch"] for row in run.outcome()[1]] == ["1", "2", "3"]
    counts["survived"] += 1


def test_a_finished_run_stays_finished_and_refuses_another_recipe(whole, new_run):
    finished = whole(1)
    before = finished.outcome()
    finished.finish()
    assert "the run is finished: 3 of 3 epochs" in finished.text
    assert finished.outcome() == before
    options = list(finished.options)
    finished.options += ["--lr", "0.5", "--label_smoothing", "0.1"]
    finished.start()
    assert finished.end(60) == 2
    finished.options = options
    assert "belongs to a run with other settings" in finished.text
    assert "label_smoothing: 0 before, 0.1 now" in finished.text.replace("0.0 ", "0 ")
    assert "lr: 0.02 before, 0.5 now" in finished.text
    assert finished.outcome() == before
