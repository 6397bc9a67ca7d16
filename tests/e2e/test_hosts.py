"""Ranks on two hosts: network namespaces of this machine that see each other by one cable alone.

Needs root and Debian's iproute2; elsewhere these tests say that they are skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from ..helpers.processes import kill_all
from .conftest import (
    BIN,
    ROOT,
    SOON_COMPILED,
    launcher_environment,
    marked_processes,
    recipe,
    rows,
)
from .test_cluster import END_SECONDS, RANK, START_SECONDS, free_port

pytestmark = pytest.mark.slow
PROGRAMS = ("ip", "unshare", "hostname")


class Host:
    """A name, an address, and a network of its own."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def command(self, *words: object) -> list[str]:
        """What runs a command there."""
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name]
        return ["ip", "netns", "exec", self.name, *named, *map(str, words)]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts():
    """Two hosts with a cable between them, which know each other's names."""
    if os.geteuid() or not all(map(shutil.which, PROGRAMS)):
        pytest.skip(f"making hosts takes root and {', '.join(PROGRAMS)}")
    job = uuid.uuid4().hex[:6]
    made = [Host(f"gh{job}{letter}", f"10.99.7.{i + 1}") for i, letter in enumerate("ab")]
    ends = [f"gv{job}{letter}" for letter in "ab"]
    known = "127.0.0.1 localhost\n" + "".join(f"{h.address} {h.name}\n" for h in made)
    files = [Path("/etc/netns") / host.name for host in made]  # ip shows them as /etc there
    try:
        for host, folder in zip(made, files):
            ip("netns", "add", host.name)
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(known)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for host, end in zip(made, ends):
            ip("link", "set", end, "netns", host.name)
            ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", end)
            for device in (end, "lo"):
                ip("-n", host.name, "link", "set", device, "up")
        yield made
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    finally:
        for host, folder in zip(made, files):
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)
            shutil.rmtree(folder, ignore_errors=True)


class Job:
    """Processes on both hosts, whose output is in one file."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"JOB_MARK={uuid.uuid4().hex}"
        self.output = open(folder / "output.txt", "w+")  # noqa: SIM115 (closed by end)
        self.environ = {**launcher_environment(), "JOB_MARK": self.mark[9:]}
        self.environ |= {"PYTHONPATH": str(ROOT), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        self.processes: list[subprocess.Popen] = []

    def start(self, host: Host, *words: object, cwd: Path | None = None, **environ: str) -> None:
        self.processes.append(
            subprocess.Popen(
                host.command(*words),
                cwd=cwd,
                env={**self.environ, **environ},
                stdin=subprocess.DEVNULL,
                stdout=self.output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def srun(self, hosts: list[Host], *words: object, cwd: Path | None = None) -> None:
        """As srun starts one task on each of two nodes."""
        for rank, host in enumerate(hosts):
            self.start(
                host,
                *words,
                cwd=cwd,
                SLURM_JOB_ID=str(int(self.mark[9:16], 16)),
                SLURM_STEP_ID="0",
                SLURM_PROCID=str(rank),
                SLURM_NODEID=str(rank),
                SLURM_LOCALID="0",
                SLURM_STEP_NUM_TASKS="2",
                SLURM_STEP_TASKS_PER_NODE="1(x2)",
                SLURM_STEP_NODELIST=",".join(host.name for host in hosts),
            )

    @property
    def text(self) -> str:
        return Path(self.output.name).read_text()

    def end(self, seconds: float) -> list[int]:
        """Wait until no process is left; give the statuses."""
        deadline = time.monotonic() + seconds
        while marked_processes(self.mark) or any(p.poll() is None for p in self.processes):
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)
        return [process.returncode for process in self.processes]


@pytest.fixture
def job(tmp_path):
    made = Job(tmp_path)
    yield made
    kill_all(marked_processes(made.mark))
    made.output.close()


def joined(job: Job) -> list[str]:
    return sorted(re.findall(r"joined \d \d", job.text))


def test_srun_s_ranks_on_two_hosts_become_one_cluster(hosts, job):
    job.srun(hosts, *RANK, "ok")
    assert job.end(START_SECONDS) == [0, 0], job.text
    assert joined(job) == ["joined 0 3", "joined 1 3"]


def test_mpirun_s_ranks_on_the_hosts_of_a_file_become_one_cluster(hosts, job, tmp_path):
    (tmp_path / "hosts").write_text("".join(f"{host.name} slots=1\n" for host in hosts))
    # In the place of ssh, which would need a server on each host.
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    words = 'while [ "${1#-}" != "$1" ]; do shift; done; host=$1; shift\n'
    there = 'exec ip netns exec "$host" unshare --uts sh -c \'hostname "$0"; exec sh -c "$1"\''
    ssh.write_text(f'#!/bin/sh\n{words}{there} "$host" "$*"\n')
    ssh.chmod(0o755)
    job.environ["PATH"] = f"{ssh.parent}{os.pathsep}{job.environ['PATH']}"
    address = {"MS_SCHED_HOST": hosts[0].address, "MS_SCHED_PORT": free_port()}
    exported = [word for name in (*address, "PYTHONPATH", "JOB_MARK") for word in ("-x", name)]
    mpirun = [BIN / "mpirun", "-n", 2, "--hostfile", tmp_path / "hosts", *exported]
    job.start(hosts[0], *mpirun, *RANK, "ok", **address)
    assert job.end(START_SECONDS) == [0], job.text
    assert joined(job) == ["joined 0 3", "joined 1 3"]


def test_msrun_on_each_of_two_hosts_makes_one_cluster(hosts, job, tmp_path):
    port = free_port()
    for number, host in enumerate(hosts):
        options = {"worker_num": 2, "local_worker_num": 1, "node_rank": number, "join": True}
        options |= {"master_addr": hosts[0].address, "master_port": port}
        options["log_dir"] = tmp_path / f"msrun{number}"
        words = [f"--{name}={value}" for name, value in options.items()]
        job.start(host, BIN / "msrun", *words, RANK[1], "ok")
    assert job.end(START_SECONDS) == [0, 0], job.text
    assert set(joined(job)) == {"joined 0 3", "joined 1 3"}


def test_a_rank_that_is_killed_on_one_host_ends_the_other_host_s(hosts, job):
    job.srun(hosts, *RANK, "loop")
    deadline = time.monotonic() + START_SECONDS
    while len(joined(job)) < 2:
        assert time.monotonic() < deadline, job.text
        time.sleep(0.05)
    pids = dict(re.findall(r"pid (\d) (\d+)", job.text))
    os.kill(int(pids["1"]), signal.SIGKILL)
    assert all(job.end(END_SECONDS)), job.text
    assert "rank 1 of 2 failed: killed by SIGKILL" in job.text


def test_two_hosts_train_as_two_ranks_of_one(hosts, job, images, scripts, tmp_path):
    options = recipe(images, model=SOON_COMPILED, batch_size=4, epoch_size=1, drop_rate=0.0)
    scripts.train(*options, "--ckpt_save_dir", "one", ranks=2)
    train = [sys.executable, ROOT / "train.py", *options, "--ckpt_save_dir", "two"]
    job.srun(hosts, *train, cwd=tmp_path)
    assert job.end(240) == [0, 0], job.text
    assert "2 x CPU (slurm), graph mode" in job.text
    one, two = (rows(tmp_path / name)[0] for name in ("one", "two"))
    # A rank that has a host to itself computes with more threads, which add in another order.
    for key in ("loss", "val_loss"):
        assert float(two[key]) == pytest.approx(float(one[key]), rel=1e-5)
    assert two["step"] == one["step"] == "6"
