"""Ranks become one cluster under every launcher, and end together however one of them ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ..helpers.processes import kill_all
from .conftest import BIN, ROOT, launcher_environment, marked_processes

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

    def mpirun(self, *arguments: str, ranks: int = 2, **environ: str) -> None:
        launcher = [str(BIN / "mpirun"), "--oversubscribe", "-n", str(ranks)]
        self.start(*launcher, *RANK, *arguments, **environ)

    def msrun(self, folder: Path, *arguments: str, port: str = "", **environ: str) -> None:
        options = {"worker_num": 2, "local_worker_num": 2, "master_port": port or free_port()}
        options["join"] = True
        words = [f"--{name}={value}" for name, value in options.items()]
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        launcher = [str(BIN / "msrun"), *words, f"--log_dir={folder / 'msrun'}"]
        self.start(*launcher, RANK[1], *arguments, PATH=path, **environ)

    def srun(self, *arguments: str, **environ: str) -> None:
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
                **environ,
            )

    @property
    def text(self) -> str:
        return Path(self.output.name).read_text()

    def alive(self) -> list[int]:
        return marked_processes(self.mark)

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


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def supervisor_of(job: Job, rank: int) -> int:
    return parent_of(job.pids()[rank])


def relay_of(job: Job, rank: int) -> int:
    """The signal relay: the process that the launcher started."""
    return parent_of(supervisor_of(job, rank))


@pytest.fixture
def jobs(tmp_path):
    made: list[Job] = []

    def make() -> Job:
        made.append(Job(tmp_path))
        return made[-1]

    yield make
    for job in made:
        kill_all(job.alive())
        job.output.close()


@pytest.mark.slow
def test_two_jobs_at_once_do_not_mix(jobs):
    first, second = jobs(), jobs()
    first.mpirun("ok")
    second.mpirun("ok", ranks=3)
    assert first.end(START_SECONDS) == [0]
    assert second.end(START_SECONDS) == [0]
    assert sorted(re.findall(r"joined \d \d", first.text)) == ["joined 0 3", "joined 1 3"]
    assert re.findall(r"joined \d (\d)", second.text) == ["6"] * 3


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
def test_the_scheduler_s_host_may_be_given_by_name(jobs):
    job = jobs()
    job.mpirun("ok", MS_SCHED_HOST="localhost", MS_SCHED_PORT=free_port())
    assert job.end(START_SECONDS) == [0], job.text
    assert sorted(re.findall(r"joined \d \d", job.text)) == ["joined 0 3", "joined 1 3"]


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("no-such-host.invalid", "MS_SCHED_HOST=no-such-host.invalid isn't a name that this"),
        # A block of addresses that is nobody's (RFC 5737).
        ("192.0.2.1", "MS_SCHED_HOST has to be an address of rank 0's host"),
    ],
)
def test_an_unusable_scheduler_host_is_reported_once_with_status_2(jobs, host, told):
    job = jobs()
    job.srun("ok", MS_SCHED_HOST=host, MS_SCHED_PORT=free_port())
    assert job.end(START_SECONDS) == [2, 2], job.text
    assert job.text.count(told) == 1, job.text
    assert "Traceback" not in job.text


def test_a_port_of_another_job_ends_msrun_s_ranks_instead_of_leaving_them_waiting(jobs, tmp_path):
    job = jobs()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        job.msrun(tmp_path, "ok", port=port)
        assert job.end(START_SECONDS + END_SECONDS) != [0], job.text
    told = f"the scheduler can't listen on port {port} of 127.0.0.1 (Address already in use): "
    log = (tmp_path / "msrun" / "worker_0.log").read_text()
    assert f"error: the scheduler process: {told}choose another by MS_SCHED_PORT or msrun's" in log


@pytest.mark.parametrize("launcher", ["srun", pytest.param("mpich", marks=pytest.mark.slow)])
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
        pytest.param(
            *(("raise", "1"), "rank 1 of 2 failed: ValueError: in the midst of it"),
            id="raise_1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("raise", "0"), "rank 0 of 2 failed: ValueError: in the midst of it"),
            id="raise_0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("exit", "1"), "rank 1 of 2 failed: exit status 3"),
            id="exit_1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *(("early-raise", "1"), "rank 1 of 2 failed: ValueError: before the others are there"),
            id="early_1",
        ),
    ],
)
def test_a_rank_that_fails_ends_all_and_says_why(jobs, arguments, told):
    job = jobs()
    job.srun(*arguments)
    statuses = job.end(START_SECONDS + END_SECONDS)
    assert all(statuses), job.text
    assert told in job.text


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
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
    # Not the process that was started: PyPI's mpirun is a wrapper around prterun.
    os.kill(parent_of(relay_of(job, 0)), signal.SIGKILL)
    assert job.end(END_SECONDS)[0] != 0


def test_sigterm_of_mpirun_ends_all(jobs):
    job = jobs()
    job.mpirun("loop")
    job.wait_for(r"joined", 2)
    os.kill(job.starters[0].pid, signal.SIGTERM)
    assert job.end(END_SECONDS)[0] != 0


def test_a_user_error_is_reported_once_with_status_2(jobs):
    job = jobs()
    job.srun("config")
    assert job.end(START_SECONDS) == [2, 2], job.text
    assert job.text.count("lr is 'fast', which isn't legal") == 1
    assert "Traceback" not in job.text


@pytest.mark.slow
@pytest.mark.parametrize(("device", "ended"), [("CPU", 0), ("Ascend", 2)])
def test_a_device_gets_more_time_to_end_than_the_cpu(jobs, device, ended):
    job = jobs()
    job.srun("slow-exit", device)
    assert job.end(START_SECONDS) == [0, 0], job.text
    assert len(re.findall(r"ended \d", job.text)) == ended


SAVE_SECONDS = 30  # a step, the save of two seconds, and the end, on a busy machine


class Training:
    """A job in its training loop, which saves when it is told to stop."""

    def __init__(self, job: Job, folder: Path, launcher: str, what: str = "train") -> None:
        self.job, self.saved = job, folder / "saved"
        environ = {"SAVED": str(self.saved)}
        if launcher == "srun":
            job.srun(what, "1", **environ)
        elif launcher == "mpirun":
            job.mpirun(what, "1", **environ)
        else:
            job.msrun(folder, what, "1", **environ)
        job.wait_for(r"trains \d", 2)
        time.sleep(0.5)

    def signals_told(self) -> list[str]:
        """What each rank heard, when it has saved."""
        deadline = time.monotonic() + SAVE_SECONDS
        files = [self.saved.with_name(f"saved.{rank}") for rank in range(2)]
        while not all(file.exists() for file in files):
            assert time.monotonic() < deadline, self.job.text
            time.sleep(0.05)
        return [file.read_text() for file in files]


@pytest.mark.faults
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 0)],
    ids=["SIGTERM", "SIGINT", "SIGUSR1"],
)
@pytest.mark.parametrize("whom", ["relay", "supervisor", "rank"])
def test_a_signal_to_any_process_of_a_rank_lets_all_ranks_save(
    jobs, tmp_path, whom, number, status
):
    job = jobs()
    run = Training(job, tmp_path, "srun")
    find = {
        "relay": relay_of,
        "supervisor": supervisor_of,
        "rank": lambda job, rank: job.pids()[rank],
    }
    os.kill(find[whom](job, 1), number)
    assert job.end(SAVE_SECONDS) == [status, status], job.text
    assert run.signals_told() == ["", number.name]
    assert "failed" not in job.text


@pytest.mark.faults
@pytest.mark.parametrize("launcher", ["mpirun", "msrun"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=str)
def test_ranks_save_although_their_launcher_ends_at_once(jobs, tmp_path, launcher, number):
    job = jobs()
    run = Training(job, tmp_path, launcher)
    os.kill(parent_of(relay_of(job, 0)), number)
    job.end(SAVE_SECONDS)
    assert [told.split(",")[0] for told in run.signals_told()] == ["SIGTERM", "SIGTERM"]


@pytest.mark.faults
def test_slurm_s_warning_to_mpirun_reaches_all_ranks(jobs, tmp_path):
    job = jobs()
    run = Training(job, tmp_path, "mpirun")
    os.kill(parent_of(relay_of(job, 0)), signal.SIGUSR1)
    assert job.end(SAVE_SECONDS) == [0], job.text
    assert run.signals_told() == ["SIGUSR1", "SIGUSR1"]


@pytest.mark.faults
def test_ranks_stand_still_while_mpirun_is_stopped_and_then_go_on(jobs, tmp_path):
    job = jobs()
    run = Training(job, tmp_path, "mpirun")
    mpirun = parent_of(relay_of(job, 0))

    def wait_until(stopped: list[bool]) -> None:
        deadline = time.monotonic() + 30
        while [state_of(pid) == "T" for pid in job.pids().values()] != stopped:
            assert time.monotonic() < deadline, job.text
            time.sleep(0.05)

    os.kill(mpirun, signal.SIGTSTP)  # as Ctrl-Z does
    wait_until([True, True])
    os.kill(mpirun, signal.SIGCONT)
    wait_until([False, False])
    assert "saving" not in job.text
    os.kill(relay_of(job, 1), signal.SIGUSR1)
    assert job.end(SAVE_SECONDS) == [0], job.text
    assert run.signals_told() == ["", "SIGUSR1"]


@pytest.mark.faults
def test_a_second_ctrl_c_ends_all_at_once_though_a_rank_is_deaf(jobs, tmp_path):
    job = jobs()
    Training(job, tmp_path, "srun", "deaf")
    for _ in range(2):  # of one keystroke
        os.kill(relay_of(job, 1), signal.SIGINT)
        time.sleep(0.05)
    time.sleep(1)
    assert len(job.alive()) >= 6, job.text
    os.kill(relay_of(job, 1), signal.SIGINT)
    assert job.end(5) == [130, 130], job.text


@pytest.mark.faults
def test_a_rank_that_ignores_signals_ends_with_a_killed_launcher(jobs, tmp_path):
    job = jobs()
    Training(job, tmp_path, "mpirun", "deaf")
    os.kill(parent_of(relay_of(job, 0)), signal.SIGKILL)
    job.end(END_SECONDS)


@pytest.mark.parametrize(
    ("number", "status", "told"),
    [
        pytest.param(signal.SIGTERM, 143, "ended by SIGTERM", id="SIGTERM"),
        pytest.param(*(signal.SIGINT, 130, "interrupted"), id="SIGINT", marks=pytest.mark.slow),
        pytest.param(
            *(signal.SIGUSR1, 138, "ended by SIGUSR1"), id="SIGUSR1", marks=pytest.mark.slow
        ),
    ],
)
def test_a_signal_before_training_ends_the_job_and_says_so(jobs, number, status, told):
    job = jobs()
    job.srun("loop")
    job.wait_for(r"joined", 2)
    os.kill(relay_of(job, 1), number)
    assert job.end(END_SECONDS) == [status, status], job.text
    assert f"rank 1 of 2 failed: {told}" in job.text


def test_a_status_that_all_ranks_return_is_no_failure(jobs):
    job = jobs()
    job.srun("return")
    assert job.end(START_SECONDS) == [5, 5]
    assert "failed" not in job.text
