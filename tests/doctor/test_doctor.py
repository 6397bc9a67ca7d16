"""The whole doctor, started as users start it, with and without launchers."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from mindcv_ghost.doctor.exchange import read_json_if_there
from mindcv_ghost.doctor.report import BROKEN, OK, SKIPPED

from ..e2e.conftest import BIN, ROOT, write_images
from .conftest import lines_of, object_of

# Compiles fast, and has batch norms.
SMALL = ("--model", "ghost_resnet20_cifar", "--image_resize", 32, "--steps", 40, "--device", "CPU")
ALL = [
    *("versions", "launcher", "left-over variables", "scheduler's address", "cores and memory"),
    *("/dev/shm", "compiler", "run folder", "images", "devices", "device of each rank"),
    *("cluster", "AllReduce", "gather and broadcast", "native code", "network"),
    *("loss and gradients", "training", "equal ranks", "save and load", "resume", "sink mode"),
]


def nothing_is_broken(text: str) -> dict[str, tuple[str, str]]:
    lines = lines_of(text)
    assert list(lines) == ALL
    assert [what for what, (state, _) in lines.items() if state == BROKEN] == [], text
    return lines


def test_one_process_is_checked_and_leaves_no_files(doctor, tmp_path):
    write_images(tmp_path / "images" / "train", {"ant": 3, "bee": 3}, seed=1)
    images = ("--data_dir", tmp_path / "images", "--ckpt_save_dir", tmp_path / "run")
    done = doctor.run(*SMALL, *images, "--json")
    assert done.status == 0, done.out + done.err
    lines = nothing_is_broken(done.err)
    for what in ("cluster", "AllReduce", "gather and broadcast", "equal ranks", "sink mode"):
        assert lines[what][0] == SKIPPED
    assert lines["resume"] == (
        OK,
        "the last 4 steps again from the saved state, 40 updates in all: identical to the "
        "uninterrupted run, bit for bit",
    )
    whole = object_of(done.out)
    assert done.out.count("\n") == 1 and whole["status"] == 0
    numbers = {each["what"]: each["numbers"] for each in whole["checks"]}
    assert numbers["loss and gradients"]["gradient_error"] < 1e-3
    assert numbers["loss and gradients"]["loss_error"] < 1e-5
    assert numbers["training"]["last_loss"] < 0.9 * numbers["training"]["first_loss"]
    assert numbers["images"]["images"] == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


@pytest.mark.slow
def test_gradients_in_float16_with_a_loss_scale_are_compared_with_float32(doctor):
    half = ("--amp_level", "O2", "--loss_scale_type", "dynamic", "--loss_scale", 1024)
    more = ("--gradient_accumulation_steps", 2, "--ema", "true", "--clip_grad", "true")
    done = doctor.run(*SMALL, *half, *more, "--json")
    assert done.status == 0, done.out + done.err
    numbers = {each["what"]: each["numbers"] for each in object_of(done.out)["checks"]}
    assert 1e-6 < numbers["loss and gradients"]["gradient_error"] < 5e-2
    assert numbers["training"]["loss_scale"] == 1024


@pytest.mark.slow
def test_ranks_started_by_mpirun_are_checked_together(doctor):
    done = doctor.run(*SMALL, "--ranks", 2)
    assert done.status == 0, done.out + done.err
    lines = nothing_is_broken(done.out)
    assert lines["launcher"][1] == "openmpi: 2 ranks on one host"
    assert "sums exact" in lines["AllReduce"][1]
    assert lines["equal ranks"][0] == OK
    assert "bit for bit" in lines["resume"][1]
    assert "Nothing is broken, and training works." in done.out
    assert done.out.count("paste from here") == 1


@pytest.mark.slow
def test_ranks_started_by_msrun_are_checked_together(doctor, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    msrun = [BIN / "msrun", "--worker_num", 2, "--local_worker_num", 2, "--master_port", port]
    script = ROOT / "mindcv_ghost" / "doctor" / "__main__.py"
    command = [*msrun, "--join", "True", "--log_dir", tmp_path / "logs", script, *SMALL]
    done = doctor.end(doctor.start(*command, PYTHONPATH=""))
    assert done.status == 0, done.out + done.err
    lines = nothing_is_broken(done.out)
    assert lines["launcher"][1] == "msrun: 2 ranks on one host"


def rank_1_in_training(folder: Path) -> int:
    """Return its pid once it trains; between two checks it has no file."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in folder.glob("mindcv_ghost_doctor-*/now-rank1.json"):
            running = read_json_if_there(path)
            if running is not None and running["what"] == "training":
                return running["pid"]
        time.sleep(0.1)
    raise AssertionError("rank 1 doesn't train")


@pytest.mark.slow
def test_a_rank_that_is_stopped_during_training_ends_the_job_with_a_report(doctor):
    process = doctor.start(
        *(sys.executable, "-m", "mindcv_ghost.doctor", "--ranks", 2, *SMALL),
        *("--steps", 100_000, "--patience", 150),
    )
    seen = ""
    while "loss and gradients:" not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    os.kill(rank_1_in_training(Path(doctor.environ["TMPDIR"])), signal.SIGSTOP)
    done = doctor.end(process)
    assert done.status == 1, done
    state, text = lines_of(done.out)["training"]
    assert state == BROKEN and text.startswith("no end within 150 s. rank 0 in training (at ")
    assert "rank 1 in training" in text
    assert done.out.count("paste from here") == 1


def test_an_unknown_key_is_reported_once_with_status_2(doctor):
    for more in ((), ("--ranks", 2)):
        done = doctor.run("--weigth_decay", 1, *more)
        assert (done.status, done.out) == (2, "")
        assert done.err == (
            "error: --weigth_decay: there is no such option; did you mean --weight_decay?\n"
        )


def test_help_names_every_option(doctor):
    done = doctor.run("--help")
    assert done.status == 0 and done.err == ""
    for option in ("--device", "--ranks", "--light", "--steps", "--patience", "--json"):
        assert option in done.out


def test_ranks_under_a_launcher_must_agree_with_it(doctor):
    world = {f"OMPI_COMM_WORLD_{name}": "1" for name in ("SIZE", "LOCAL_SIZE")}
    world |= {f"OMPI_COMM_WORLD_{name}": "0" for name in ("RANK", "LOCAL_RANK")}
    done = doctor.run("--ranks", 2, **world)
    assert done.status == 2 and "--ranks 2: openmpi has started 1 processes" in done.err


def test_a_run_folder_that_cant_be_written_is_broken_with_status_1(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    done = doctor.run("--light", "--ckpt_save_dir", tmp_path / "file" / "run")
    assert done.status == 1
    assert lines_of(done.out)["run folder"][0] == BROKEN
    assert "Broken: run folder." in done.out and "Traceback" not in done.out + done.err


def test_without_mindspore_all_other_checks_still_run(doctor, tmp_path):
    hidden = tmp_path / "hidden"
    (hidden / "mindspore").mkdir(parents=True)
    (hidden / "mindspore" / "__init__.py").write_text("raise ImportError('no libfoo.so')")
    # Shadows the installed MindSpore, also in the doctor's child processes.
    done = doctor.run("--device", "CPU", PYTHONPATH=f"{hidden}:{ROOT}")
    assert done.status == 1, done.out + done.err
    lines = lines_of(done.out)
    assert list(lines) == ALL
    assert lines["devices"] == (BROKEN, "ImportError: no libfoo.so")
    assert lines["run folder"][0] == OK and lines["training"][0] == SKIPPED
    assert "Traceback" not in done.out + done.err


def test_contradictory_launcher_variables_are_a_result(doctor):
    done = doctor.run(OMPI_COMM_WORLD_RANK="3", OMPI_COMM_WORLD_SIZE="2")
    assert done.status == 1
    lines = lines_of(done.out)
    assert lines["launcher"][0] == BROKEN and "contradict each other" in lines["launcher"][1]
    assert lines["compiler"][0] == OK
