"""Who am I, from what the launchers leave in the environment."""

from __future__ import annotations

import doctest
import os
import socket
import stat
import threading

import pytest

from mindcv_ghost import launch, rendezvous
from mindcv_ghost.errors import LaunchError, UserError
from mindcv_ghost.launch import (
    LOCAL_SIZE,
    World,
    check_distribute,
    detect,
    first_slurm_host,
    is_scheduler,
    job_identity,
    scheduler_address,
    threads_per_rank,
    without_launcher,
)
from mindcv_ghost.lifeline import Failure

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
MSRUN = {
    "MS_ROLE": "MS_WORKER",
    "MS_WORKER_NUM": "8",
    "MS_NODE_ID": "5",
    "MS_SCHED_HOST": "10.0.0.1",
    "MS_SCHED_PORT": "8118",
    "RANK_ID": "5",
    "DEVICE_ID": "1",
}
# An allocation of 8 tasks on 2 hosts, as a batch script sees it.
SLURM_JOB = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
}
# The same, as task 5 of `srun` in it sees it.
SLURM_STEP = dict(
    SLURM_JOB,
    SLURM_STEP_ID="0",
    SLURM_STEP_NUM_TASKS="8",
    SLURM_STEP_TASKS_PER_NODE="4(x2)",
    SLURM_STEP_NODELIST="gpu[07-08]",
    SLURM_PROCID="5",
    SLURM_LOCALID="1",
    SLURM_NODEID="1",
)


def changed(environ: dict, **changes: str | None) -> dict:
    merged = dict(environ, **changes)
    return {name: value for name, value in merged.items() if value is not None}


@pytest.mark.parametrize("module", [launch, rendezvous])
def test_doctests(module):
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("environ", "launcher"),
    [
        (OPEN_MPI, "openmpi"),
        (MPICH, "pmi"),
        (dict(MSRUN, **{LOCAL_SIZE: "4"}), "msrun"),
        (SLURM_STEP, "slurm"),
    ],
)
def test_each_launcher_gives_the_same_place(environ, launcher):
    assert detect(environ) == World(5, 8, 1, 4, launcher)


def test_nothing_set_is_one_process():
    assert detect({"PATH": "/bin"}) == World(0, 1, 0, 1, "single")
    assert World().is_main and World().one_host


def test_python_in_a_batch_script_is_one_process_however_many_tasks_were_asked_for():
    assert detect(SLURM_JOB).size == 1


def test_shell_in_an_interactive_step_is_one_process():
    shell = changed(SLURM_STEP, SLURM_STEP_NUM_TASKS="1", SLURM_STEP_TASKS_PER_NODE="1")
    assert detect(changed(shell, SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0")).size == 1


def test_old_slurm_without_step_tasks_uses_the_number_of_tasks():
    old = changed(SLURM_STEP, SLURM_STEP_NUM_TASKS=None, SLURM_STEP_TASKS_PER_NODE=None)
    assert detect(old) == World(5, 8, 1, 8, "slurm")


def test_mpirun_inside_a_slurm_step_counts_by_mpi():
    # mpirun starts its daemons by srun, one a host: to Slurm this is task 1 of 2.
    daemon = changed(SLURM_STEP, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="1")
    assert detect(dict(daemon, **OPEN_MPI)).launcher == "openmpi"
    assert detect(dict(daemon, **MPICH)) == World(5, 8, 1, 4, "pmi")


def test_srun_with_pmi2_is_slurms_because_pmi_lacks_the_local_ranks():
    assert detect(dict(SLURM_STEP, PMI_RANK="5", PMI_SIZE="8")) == World(5, 8, 1, 4, "slurm")


def test_uneven_hosts_have_their_own_local_sizes():
    step = changed(SLURM_STEP, SLURM_STEP_TASKS_PER_NODE="3(x2),2", SLURM_NODEID="2")
    assert detect(step).local_size == 2


def test_launcher_without_local_ranks_means_one_host():
    assert detect({"PMI_RANK": "1", "PMI_SIZE": "2"}) == World(1, 2, 1, 2, "pmi")


def test_msrun_without_node_rank_says_to_give_it():
    with pytest.raises(LaunchError, match="--node_rank"):
        detect(changed(MSRUN, MS_NODE_ID=None))


def test_scheduler_is_no_rank():
    environ = changed(MSRUN, MS_ROLE="MS_SCHED", MS_NODE_ID=None)
    assert is_scheduler(environ)
    assert not is_scheduler(MSRUN)
    with pytest.raises(LaunchError, match="run_script"):
        detect(environ)


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        (changed(OPEN_MPI, OMPI_COMM_WORLD_SIZE="x"), ["OMPI_COMM_WORLD_SIZE='x'", "number"]),
        (changed(OPEN_MPI, OMPI_COMM_WORLD_RANK="8"), ["OMPI_COMM_WORLD_RANK='8'", "contradict"]),
        (changed(OPEN_MPI, OMPI_COMM_WORLD_SIZE=None), ["OMPI_COMM_WORLD_SIZE", "not"]),
        (changed(OPEN_MPI, OMPI_COMM_WORLD_LOCAL_SIZE="9"), ["LOCAL_SIZE='9'", "contradict"]),
        (changed(MPICH, PMI_RANK="-1"), ["PMI_RANK='-1'", "number"]),
        (changed(MPICH, PMI_RANK=None), ["PMI_SIZE='8'", "PMI_RANK"]),
        (changed(SLURM_STEP, SLURM_PROCID="9"), ["SLURM_PROCID='9'", "contradict"]),
        (changed(SLURM_STEP, SLURM_STEP_TASKS_PER_NODE="4(x3)"), ["4(x3)", "contradict"]),
        (changed(SLURM_STEP, SLURM_NODEID="2"), ["SLURM_NODEID=2", "contradict"]),
        (changed(MSRUN, MS_WORKER_NUM=None), ["MS_WORKER_NUM", "msrun"]),
        (changed(MSRUN, MS_NODE_ID="eight"), ["MS_NODE_ID='eight'", "number"]),
        (changed(MSRUN, MS_SCHED_PORT="80"), ["MS_SCHED_PORT='80'", "1024"]),
        (changed(MSRUN, MS_ROLE="MS_SERVER"), ["MS_SERVER", "MS_WORKER"]),
    ],
)
def test_wrong_variables_are_named_with_their_values(environ, words):
    with pytest.raises(LaunchError) as caught:
        detect(environ)
    assert isinstance(caught.value, UserError)
    for word in words:
        assert word in str(caught.value)


def test_distribute_may_agree_or_be_left_out():
    many = World(0, 2, 0, 2, "openmpi")
    for world, flag in [(World(), None), (World(), False), (many, None), (many, True)]:
        check_distribute(world, flag)


def test_distribute_against_the_launcher_is_an_error_that_says_how():
    with pytest.raises(LaunchError, match="mpirun -n 8"):
        check_distribute(World(), True)
    with pytest.raises(LaunchError, match=r"openmpi\) started 2"):
        check_distribute(World(0, 2, 0, 2, "openmpi"), False)


def test_ranks_share_the_cores_of_their_host():
    assert threads_per_rank(World(0, 8, 0, 8, "openmpi"), 2) == 1
    assert threads_per_rank(World(0, 16, 0, 8, "openmpi"), 64) == 8
    assert threads_per_rank(World(), 6) == 6


def test_scheduler_address_is_both_or_neither():
    assert scheduler_address({}) is None
    assert scheduler_address(MSRUN) == ("10.0.0.1", 8118)
    with pytest.raises(LaunchError, match="MS_SCHED_PORT"):
        scheduler_address({"MS_SCHED_HOST": "a"})
    with pytest.raises(LaunchError, match="MS_SCHED_HOST"):
        scheduler_address({"MS_SCHED_PORT": "8118"})


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("a", "a"), ("a,b", "a"), ("n[1,3-5],x", "n1"), ("r[2-3]n[01-04]-ib,z", "r2n01-ib")],
)
def test_first_host_of_a_slurm_list(nodes, host):
    assert first_slurm_host({"SLURM_STEP_NODELIST": nodes}) == host


def test_under_mpirun_the_jobs_first_host_counts_not_the_daemons_steps():
    environ = dict(OPEN_MPI, SLURM_JOB_NODELIST="n[1-4]", SLURM_STEP_NODELIST="n[2-4]")
    assert first_slurm_host(environ) == "n1"


def test_two_jobs_have_two_identities_and_ranks_of_one_job_share_theirs():
    first = dict(OPEN_MPI, PMIX_NAMESPACE="prterun-vm-1@1")
    other_rank = dict(first, OMPI_COMM_WORLD_RANK="0", PMIX_RANK="0")
    other_job = dict(first, PMIX_NAMESPACE="prterun-vm-2@1")
    world = detect(first)
    assert job_identity(first, world) == job_identity(other_rank, detect(other_rank))
    assert job_identity(first, world) != job_identity(other_job, world)
    step = detect(SLURM_STEP)
    other_step = dict(SLURM_STEP, SLURM_STEP_ID="1")
    assert job_identity(SLURM_STEP, step) != job_identity(other_step, step)
    assert job_identity(MPICH, detect(MPICH)) == ""


def test_scheduler_inherits_nothing_that_makes_it_a_rank():
    environ = {**OPEN_MPI, **MPICH, **MSRUN, **SLURM_STEP, "PMIX_RANK": "1", "PATH": "/bin"}
    kept = without_launcher(dict(environ, MS_TOPO_TIMEOUT="9", GLOG_v="3"))
    assert kept == {
        "MS_WORKER_NUM": "8",
        "MS_SCHED_HOST": "10.0.0.1",
        "MS_SCHED_PORT": "8118",
        "MS_TOPO_TIMEOUT": "9",
        "PATH": "/bin",
        "GLOG_v": "3",
    }


# -- rendezvous -------------------------------------------------------------------------------


@pytest.fixture
def private_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


TWO = World(0, 2, 0, 2, "openmpi")


def test_address_file_is_the_users_alone_and_goes_when_all_are_there(private_tmp):
    meeting = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
    assert meeting.addresses() == []
    with meeting.listen() as listener:
        [(host, port, key)] = meeting.addresses()
        assert (host, port, len(key)) == ("127.0.0.1", listener.getsockname()[1], 32)
        assert stat.S_IMODE(os.stat(meeting.file.parent).st_mode) == 0o700
        assert list(meeting.file.parent.iterdir()) == [meeting.file]
        meeting.done()
    assert list(meeting.file.parent.iterdir()) == []


def test_directory_of_others_is_refused(private_tmp):
    (private_tmp / f"mindcv_ghost-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(LaunchError, match="mode 700"):
        rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})


def test_rank_waits_past_a_dead_jobs_file_for_the_new_one(private_tmp):
    stale = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
    stale.listen().close()  # killed: the file stays, nobody listens
    found = []

    def rank_1():
        theirs = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
        found.append(rendezvous.connect(theirs, 1, 10))

    thread = threading.Thread(target=rank_1)
    thread.start()
    fresh = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
    with fresh.listen() as listener:
        sock, _ = listener.accept()
        rank, channel = rendezvous.accept(sock, fresh.key, 2)
        thread.join()
        assert rank == 1
        found[0].send(hello=1)
        assert channel.receive() == {"hello": 1}
        channel.close()
        assert found[0].receive() is None
        found[0].close()


def test_stranger_without_the_key_is_not_let_in(private_tmp):
    meeting = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
    with meeting.listen() as listener:
        with socket.create_connection(listener.getsockname()) as stranger:
            stranger.sendall(b'{"rank": 1, "mac": "00", "challenge": "x"}\n')
            sock, _ = listener.accept()
            assert rendezvous.accept(sock, meeting.key, 2) is None


def test_rank_that_finds_nobody_says_what_to_export(private_tmp):
    meeting = rendezvous.meeting_point(TWO, {"PMIX_NAMESPACE": "a"})
    with pytest.raises(LaunchError, match="MS_SCHED_HOST and MS_SCHED_PORT"):
        rendezvous.connect(meeting, 1, 0.1)


def test_several_hosts_need_an_address_and_are_told_so():
    world = World(0, 2, 0, 1, "openmpi")
    with pytest.raises(LaunchError, match="mpirun -x MS_SCHED_HOST"):
        rendezvous.meeting_point(world, OPEN_MPI)
    given = dict(OPEN_MPI, MS_SCHED_HOST="10.0.0.1", MS_SCHED_PORT="8118")
    assert rendezvous.meeting_point(world, given).addresses()[0][:2] == ("10.0.0.1", 8119)


def test_slurm_hosts_compute_one_port_and_key_a_job():
    world = detect(SLURM_STEP)
    meeting = rendezvous.meeting_point(world, SLURM_STEP)
    assert (meeting.file, meeting.host) == (None, "gpu07")
    assert 20000 <= meeting.port < 30000
    again = rendezvous.meeting_point(world, dict(SLURM_STEP, SLURM_PROCID="0"))
    assert again == meeting
    other = rendezvous.meeting_point(world, dict(SLURM_STEP, SLURM_JOB_ID="78"))
    assert other.key != meeting.key and other.port != meeting.port


# -- whose fault ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "blamed"),
    [
        ([Failure(0, "collective", when=1), Failure(1, "died", kind="death", when=2)], 1),
        ([Failure(1, "first", when=1), Failure(0, "second", when=2)], 1),
        ([Failure(0, "SIGTERM", kind="signal", when=1), Failure(1, "real", when=2)], 1),
        ([Failure(1, "bad key", kind="user", when=1), Failure(0, "bad key", kind="user")], 0),
    ],
)
def test_cause_is_picked_from_what_comes_in_together(failures, blamed):
    assert min(failures, key=Failure.order).rank == blamed


def test_report_ends_with_the_cause():
    failure = Failure(1, "RuntimeError: boom", detail="Traceback\n  line\n")
    assert failure.report(2).splitlines()[-1] == "rank 1 of 2 failed: RuntimeError: boom"
    assert Failure(0, "no such key", 2, kind="user").report(2) == "error: no such key"
    assert Failure(3, "no file", 2, kind="user").report(4) == "error: rank 3 of 4: no file"
