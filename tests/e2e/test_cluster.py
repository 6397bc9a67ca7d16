"""Ranks become one cluster under every launcher, and end together however one of them ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from .conftest import BIN, ROOT, launcher_environment

RANK = [sys.executable, str(Path(__file__).with_name("cluster_rank.py"))]
END_SECONDS = 30  # what users are promised from the death of a rank to the end of the job
START_SECONDS = 100  # generous: the machine may be busy; start-up is measured in benchmarks/


class Job:
    """Processes that share a mark in their environment, so that none can hide."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"JOB_MARK={uuid.uuid4().hex}"
        self.output = open(folder / f"{self.mark}.txt", "w+")  # noqa: SIM115 (closed by end)
        self.starters: list[subprocess.Popen] = []

    def start(self, *command: str, **environ: str) -> None:
        name, value = self.mark.split("=")
        environ = {**launcher_environment(), name: value, "PYTHONPATH": str(ROOT), **environ}
        self.starters.append(
            subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def mpirun(self, *arguments: str, ranks: int = 2) -> None:
        self.start(str(BIN / "mpirun"), "--oversubscribe", "-n", str(ranks), *RANK, *arguments)

    def srun(self, *arguments: str) -> None:
        """As srun starts two tasks: nobody ends the other one when one ends."""
        for rank in range(2):
            self.start(
                *RANK,
                *arguments,
                SLURM_JOB_ID=self.mark[-8:],
                SLURM_STEP_ID="0",
                SLURM_PROCID=str(rank),
                SLURM_LOCALID=str(rank),
                SLURM_STEP_NUM_TASKS="2",
            )

    @property
    def text(self) -> str:
        return Path(self.output.name).read_text()

    def alive(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if self.mark.encode() in environ and state != "Z":
                found.append(int(folder.name))
        return found

    def pids(self) -> dict[int, int]:
        return {int(rank): int(pid) for rank, pid in re.findall(r"pid (\d+) (\d+)", self.text)}

    def wait_for(self, pattern: str, times: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while len(re.findall(pattern, self.text)) < times:
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def end(self, seconds: float) -> list[int]:
        """Wait until no process is left; give the starters' statuses."""
        deadline = time.monotonic() + seconds
        while self.alive() or any(p.poll() is None for p in self.starters):
            assert time.monotonic() < deadline, f"left: {self.alive()}\n{self.text}"
            time.sleep(0.05)
        return [p.returncode for p in self.starters]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture
def jobs(tmp_path):
    made: list[Job] = []

    def make() -> Job:
        made.append(Job(tmp_path))
        return made[-1]

    yield make
    for job in made:
        for pid in job.alive():
            os.kill(pid, signal.SIGKILL)
        job.output.close()


def test_two_jobs_at_once_do_not_meet(jobs):
    first, second = jobs(), jobs()
    first.mpirun("ok")
    second.mpirun("ok", ranks=3)
    assert first.end(START_SECONDS) == [0]
    assert second.end(START_SECONDS) == [0]
    assert sorted(re.findall(r"joined \d \d", first.text)) == ["joined 0 3", "joined 1 3"]
    assert re.findall(r"joined \d (\d)", second.text) == ["6"] * 3


@pytest.mark.parametrize("launcher", ["srun", "mpich"])
def test_ranks_find_each_other_without_open_mpi(jobs, launcher):
    job = jobs()
    if launcher == "srun":
        job.srun("ok")
    else:
        for rank in range(2):
            job.start(*RANK, "ok", PMI_RANK=str(rank), PMI_SIZE="2", PMI_JOBID=job.mark)
    assert job.end(START_SECONDS) == [0, 0]
    assert sorted(re.findall(r"joined \d \d", job.text)) == ["joined 0 3", "joined 1 3"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("raise", "1"), "rank 1 of 2 failed: ValueError: in the midst of it"),
        (("raise", "0"), "rank 0 of 2 failed: ValueError: in the midst of it"),
        (("exit", "1"), "rank 1 of 2 failed: exit status 3"),
        (("early-raise", "1"), "rank 1 of 2 failed: ValueError: before the others are there"),
    ],
    ids=["raise_1", "raise_0", "exit_1", "early_1"],
)
def test_a_rank_that_fails_ends_all_and_says_why(jobs, arguments, told):
    job = jobs()
    job.srun(*arguments)
    statuses = job.end(START_SECONDS + END_SECONDS)
    assert all(statuses), job.text
    assert told in job.text


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_all_within_half_a_minute(jobs, victim):
    job = jobs()
    job.srun("loop")
    job.wait_for(r"joined", 2)
    os.kill(job.pids()[victim], signal.SIGKILL)
    assert all(job.end(END_SECONDS)), job.text
    assert f"rank {victim} of 2" in job.text


def test_nothing_is_orphaned_when_mpirun_is_killed(jobs):
    job = jobs()
    job.mpirun("loop")
    job.wait_for(r"joined", 2)
    # Not the process that was started: PyPI's mpirun is a wrapper around prterun. A rank's parent
    # is its guard, whose parent is what started it.
    os.kill(parent_of(parent_of(job.pids()[0])), signal.SIGKILL)
    assert job.end(END_SECONDS)[0] != 0


def test_sigterm_of_mpirun_ends_all(jobs):
    job = jobs()
    job.mpirun("loop")
    job.wait_for(r"joined", 2)
    os.kill(job.starters[0].pid, signal.SIGTERM)
    assert job.end(END_SECONDS)[0] != 0


def test_a_user_s_error_is_told_once_with_status_2(jobs):
    job = jobs()
    job.srun("config")
    assert job.end(START_SECONDS) == [2, 2]
    assert job.text.count("lr is 'fast', which isn't legal") == 1
    assert "Traceback" not in job.text
