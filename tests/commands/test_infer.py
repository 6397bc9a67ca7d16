"""mindcv-ghost infer: what it prints, in which form, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.commands.infer import main
from mindcv_ghost.errors import DataError
from tests.helpers.exported import description, write_means

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"b/1.png": (0, 0, 255), "g/2.png": (0, 255, 0), "r.png": (255, 0, 0)}


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of three images, and a network that tells their colour in the folder above."""
    folder = tmp_path / "images"
    for name, colour in COLOURS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 9, 3), colour, np.uint8)).save(folder / name)
    write_means(tmp_path / "means.onnx", description())
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_table_has_a_line_for_each_class_under_its_image(images, capsys):
    assert main(["images", "--model", "means.onnx", "--topk", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "image           class  probability",
        "images/r.png    red        96.41 %",
        "                green       1.79 %",
        "images/b/1.png  blue       96.41 %",
        "                red         1.79 %",
        "images/g/2.png  green      96.41 %",
        "                red         1.79 %",
    ]


def test_json_is_a_line_an_image(images, capsys):
    assert main(["images", "--model", "means.onnx", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["image"] for row in rows] == ["images/r.png", "images/b/1.png", "images/g/2.png"]
    assert [row["predictions"][0]["label"] for row in rows] == ["red", "blue", "green"]
    assert [p["index"] for p in rows[1]["predictions"]] == [2, 0, 1]
    assert sum(p["probability"] for p in rows[0]["predictions"]) == pytest.approx(1)


def test_csv_is_a_line_a_class(images, capsys):
    os.rename("images/r.png", 'images/a, "b".png')
    assert main(["images", "--model", "means.onnx", "--csv", "--topk", "2"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == ["image", "rank", "label", "index", "probability"]
    assert rows[0]["image"] == 'images/a, "b".png'
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    assert float(rows[0]["probability"]) == pytest.approx(0.9641, abs=1e-4)


def test_without_a_model_the_only_onnx_file_is_taken(images, capsys):
    assert main(["images/r.png", "--topk", "1"]) == 0
    assert "red" in capsys.readouterr().out
    write_means(Path("second.onnx"), description())
    assert main(["images/r.png"]) == 2
    assert "2 of them: means.onnx, second.onnx" in capsys.readouterr().err
    for name in ("means.onnx", "second.onnx"):
        os.unlink(name)
    assert main(["images/r.png"]) == 2
    assert "give --model FILE.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_bad_file_is_told_and_the_others_go_on(images, batch_size, capsys):
    (images / "bad.png").write_text("no image")
    words = ["images", "nosuch.png", "--batch_size", str(batch_size), "--json", "--topk", "1"]
    assert main(words) == 1
    done = capsys.readouterr()
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["image"] for row in rows] == [
        *("images/bad.png", "images/r.png", "images/b/1.png", "images/g/2.png"),
    ]
    assert rows[0]["error"] == "is not an image (JPEG, PNG, BMP, WEBP, GIF, TIFF, PPM are read)"
    assert [row["predictions"][0]["label"] for row in rows[1:]] == ["red", "blue", "green"]
    assert done.err.splitlines() == [
        "error: nosuch.png: there is no such file",
        "error: images/bad.png: is not an image (JPEG, PNG, BMP, WEBP, GIF, TIFF, PPM are read)",
    ]


def test_a_bad_standard_input_is_told_and_the_others_go_on(images, monkeypatch, capsys):
    def refuses():
        raise DataError("standard input has more than a picture may have")

    monkeypatch.setattr("mindcv_ghost.inference.pictures.read_standard_input", refuses)
    assert main(["images/r.png", "-", "images/b", "--csv", "--topk", "1"]) == 1
    done = capsys.readouterr()
    assert [line.split(",")[0] for line in done.out.splitlines()[1:]] == [
        *("images/r.png", "images/b/1.png"),
    ]
    assert done.err == "error: -: standard input has more than a picture may have\n"


def test_options_may_stand_between_the_images(images, capsys):
    assert main(["images/r.png", "--topk", "1", "images/b", "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    os.rename("images/r.png", "-r.png")
    assert main(["--csv", "--topk", "1", "--", "-r.png"]) == 0
    assert "-r.png,1,red," in capsys.readouterr().out


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has /dev/full")
def test_an_output_that_cannot_be_written_is_one_message(images):
    words = [sys.executable, "-m", "mindcv_ghost", "infer", "images", "--model", "means.onnx"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        "error: the results can't be written to standard output: No space left on device\n"
    )


def test_a_name_that_the_locale_cannot_show_ends_nothing(images):
    os.rename("images/r.png", "images/猫.png")
    words = [sys.executable, "-m", "mindcv_ghost", "infer", "images/猫.png", "--csv"]
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*words, "--topk", "1"], capture_output=True, text=True, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("images/\\u732b.png,1,red,")


def test_a_single_bad_file_is_status_1(images, capsys):
    (images / "bad.png").write_text("no image")
    assert main(["images/bad.png"]) == 1
    assert capsys.readouterr().out == "image           class  probability\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nosuch.png"], "nosuch.png: there is no such file"),
        (["images", "--model", "nosuch.onnx"], "nosuch.onnx doesn't exist"),
        (["images", "--model", "images/r.png"], "the suffix must be .onnx or .mindir"),
        (["images", "--topk", "0"], "--topk is 0; it must be at least 1"),
        (["images", "--batch_size", "-1"], "--batch_size is -1; it must be at least 1"),
        (["-", "-"], "- can be given once"),
        (["images", "--use_ema"], "--use_ema chooses weights of a .ckpt"),
        (["images", "--model", "a.mindir", "--threads", "2"], "--threads is for ONNX Runtime"),
        (["images", "--config", "ghost_resnet50_digits"], "has its own preprocessing"),
        (["images", "--config", "nosuch"], "nosuch"),
        (["images", "--model", "nosuch.ckpt"], "nosuch.ckpt doesn't exist"),
        (["images", "--model", f"{'x' * 300}.onnx"], "can't be read: File name too long"),
        (["images", "--threads", "99999999999"], "it must be at most 1024"),
        (["images", "--pretrained", "true"], "--pretrained true: give a name that"),
    ],
    ids=" ".join,
)
def test_what_cannot_work_is_one_message_and_status_2(words, message, images, capsys):
    assert main(words) == 2
    done = capsys.readouterr()
    assert done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert message in done.err


def test_the_file_of_another_program_is_run_with_a_recipes_preprocessing(images, capsys):
    write_means(Path("means.onnx"), None)
    assert main(["images"]) == 2
    assert "--config RECIPE" in capsys.readouterr().err
    Path("mine.yaml").write_text("image_resize: 6\ndataset: folder\ndata_dir: nowhere\n")
    assert main(["images/r.png", "--config", "mine.yaml", "--csv", "--topk", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("images/r.png,1,0,0,")


def test_names_with_odd_bytes_are_printed(images, capsys):
    name = os.fsencode("images/") + b"\xff.png"
    os.rename(b"images/r.png", name)
    assert main(["images", "--topk", "1"]) == 0
    assert "images/\\xff.png" in capsys.readouterr().out


def infer(*words: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "infer.py"), *words]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


def test_the_script_reads_standard_input_and_loads_no_mindspore(images):
    code = (
        "import sys; sys.argv = ['infer.py', '-', '--json']\n"
        "from mindcv_ghost.commands.dispatch import main\n"
        "status = main(['infer', *sys.argv[1:]])\n"
        "assert not {'mindspore', 'mindcv', 'yaml', 'onnx'} & set(sys.modules); sys.exit(status)"
    )
    data = (images / "g/2.png").read_bytes()
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    inside = subprocess.run(command, input=data, capture_output=True, env=environ, timeout=120)
    done = infer("-", "--json", input=data)
    assert (done.returncode, done.stderr, inside.returncode) == (0, b"", 0)
    assert done.stdout == inside.stdout
    row = json.loads(done.stdout)
    assert (row["image"], row["predictions"][0]["label"]) == ("-", "green")


def test_usage_names_the_script(images):
    done = infer("--help")
    assert done.returncode == 0
    assert done.stdout.startswith(b"usage: python infer.py ")


def test_a_list_of_paths_on_standard_input_is_no_image(images):
    done = infer("-", input=b"images/r.png\n")
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: -: is not an image")


def test_ctrl_c_ends_it_in_one_line(images):
    command = [sys.executable, str(ROOT / "infer.py"), "-"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline().startswith(b"image")
        # Python notices a signal between bytecodes, or when it interrupts a system call. One that
        # comes just before the call is noticed after it, and this read has no end.
        state = Path(f"/proc/{process.pid}/stat")
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == b"interrupted\n"


def test_a_reader_may_stop_reading(images):
    words = ["images"] * 20
    command = [sys.executable, str(ROOT / "infer.py"), *words, "--batch_size", "1"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


def test_a_terminal_gets_a_bar_that_is_removed_and_a_whole_table(images):
    master, slave = pty.openpty()
    command = [sys.executable, str(ROOT / "infer.py"), "images", "--batch_size", "1", "--topk", "1"]
    with subprocess.Popen(command, stdout=slave, stderr=slave, stdin=slave) as process:
        os.close(slave)
        data = b""
        while True:
            try:
                part = os.read(master, 4096)
            except OSError:  # the end: Linux's answer once nobody holds the other side
                break
            if not part:
                break
            data += part
        assert process.wait(60) == 0
    os.close(master)
    text = data.decode()
    assert "images   0%" in text.replace("\u2588", "")
    shown = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    assert shown[0].endswith("probability")
    assert [line.split()[:2] for line in shown[1:4]] == [
        *(["images/r.png", "red"], ["images/b/1.png", "blue"], ["images/g/2.png", "green"]),
    ]
    assert shown[4].strip() == ""
