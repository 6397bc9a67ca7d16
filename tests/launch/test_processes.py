"""What a rank learns of the process that started it, and what becomes of its output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.processes import killed_if_it_fails

ROOT = Path(__file__).resolve().parents[2]
# A rank's parent is its supervisor, and that has the rank's own environment.
CODE = """
import os
os.environ["OWN"] = "rank"
if os.fork() == 0:
    from mindcv_ghost.launch.processes import launcher_environment
    found = launcher_environment()
    print(found.get("GIVEN"), found.get("OWN"), flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("mpirun", "all launcher"),
        ("msrun", "all launcher"),
        ("slurmstepd", "all launcher"),
        ("some_other_launcher", "None None"),
    ],
)
def test_a_launcher_is_known_by_its_name_and_no_other_parent_is_taken_for_one(tmp_path, name, told):
    script = tmp_path / name
    script.write_text(f'#!/bin/sh\nGIVEN=all "{sys.executable}" -c "$CODE"\nexit 0\n')
    script.chmod(0o755)
    environ = {"CODE": CODE, "OWN": "launcher", "GIVEN": "all", "PYTHONPATH": str(ROOT)}
    # Started by a process that has ended, so that whatever runs this test isn't above it.
    starter = "import subprocess, sys; subprocess.Popen(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", starter, str(script)],
        capture_output=True,
        text=True,
        env={**environ, "PATH": "/usr/bin:/bin"},
        timeout=60,
    )
    assert done.stdout.strip() == told, done.stderr


# -- output ---------------------------------------------------------------------------------------

FORGIVING = """
import sys
from mindcv_ghost.launch.processes import ignore_closed_output
ignore_closed_output(%s)
"""
INTERRUPTED = """
import _thread, threading
ready = threading.Event()
def interrupt():
    for _ in range(1000):
        ready.wait()
        ready.clear()
        _thread.interrupt_main()
threading.Thread(target=interrupt, daemon=True).start()
interrupts = number = 0
while interrupts < 1000:
    try:
        ready.set()
        while True:
            number += 1
            sys.stdout.write(f"{number}\\n")
            sys.stdout.flush()
    except KeyboardInterrupt:
        interrupts += 1
"""
CLOSED = """
sys.stdin.read()
for _ in range(3):
    print("lost", flush=True)
    print("x" * 100_000)
print("told", file=sys.stderr)
"""


def run_python(code: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-c", code]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        env=environ,
        text=True,
        stdin=pipe,
        stderr=pipe,
        start_new_session=True,
        **options,
    )


def test_an_interrupt_during_a_write_repeats_nothing_of_the_output():
    process = run_python(FORGIVING % "" + INTERRUPTED, stdout=subprocess.PIPE)
    with killed_if_it_fails(process):
        out, err = process.communicate(timeout=300)
    numbers = [int(line) for line in out.splitlines()]
    assert (process.returncode, err) == (0, "")
    assert len(numbers) >= 100 and numbers == sorted(set(numbers))


@pytest.mark.parametrize("errors", ["", "BrokenPipeError"])
def test_output_whose_reader_has_gone_is_discarded(errors):
    process = run_python(FORGIVING % errors + CLOSED, stdout=subprocess.PIPE)
    process.stdout.close()
    process.stdout = None
    assert process.communicate("begin", timeout=120)[1] == "told\n"
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
@pytest.mark.parametrize(("errors", "fails"), [("", False), ("BrokenPipeError", True)])
def test_a_full_disk_is_told_where_only_a_closed_pipe_is_forgiven(errors, fails):
    with open("/dev/full", "w") as full:
        process = run_python(FORGIVING % errors + CLOSED, stdout=full)
    err = process.communicate("begin", timeout=120)[1]
    assert (process.returncode != 0, "No space left on device" in err) == (fails, fails)
