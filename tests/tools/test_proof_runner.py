"""Experiments are run by the scripts, go on where they were stopped, and are recorded once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import mindcv
import mindspore
import pytest
import yaml

import mindcv_ghost  # noqa: F401 (registers the zoo)
from mindcv_ghost.errors import DataError
from mindcv_ghost.report import ReportError
from mindcv_ghost.storage.checkpoint import save_weights
from mindcv_ghost.weights.finding import Published
from tests.e2e.test_small_images import TEST, TRAIN, write_clothes
from tests.helpers.published import make_card
from tests.helpers.tiny_network import tiny_registered
from tools.measure import proof, proof_times
from tools.measure.proof_list import QUICK, ROWS, Experiment

# train.py and validate.py with a network that compiles in a second, and a run that is stopped by
# SIGTERM before its third batch if there is a file that says so.
SCRIPT = """
    import os, signal, sys
    from pathlib import Path
    sys.path.insert(0, {root!r})
    from mindcv_ghost.launch.script import run_script
    from tests.helpers.tiny_network import register_tiny

    def main(argv):
        from mindcv_ghost.commands import train, validate
        from mindcv_ghost.engine.epoch import EpochRun

        register_tiny("tiny_28", side=28)
        if {kind!r} == "validate":
            return validate.main(argv)
        stop, ask, batches = Path({stop!r}), EpochRun._request, []

        def request(self):
            batches.append(1)
            if stop.exists() and len(batches) == 3:
                stop.unlink()
                os.kill(os.getpid(), signal.SIGTERM)
            ask(self)

        EpochRun._request = request
        small = ["--model", "tiny_28", "--batch_size", "8", "--num_parallel_workers", "1"]
        return train.main([*argv, *small, "--save_every_steps", "1"])

    sys.exit(run_script(main, sys.argv[1:]))
"""
ONE = Experiment("fashion_mnist", QUICK, 0)


@pytest.fixture
def place(tmp_path, monkeypatch):
    write_clothes(tmp_path / "data")
    monkeypatch.setitem(proof.IMAGES, "fashion_mnist", (TRAIN, TEST))
    for kind in ("train", "validate"):
        text = SCRIPT.format(root=str(proof.ROOT), kind=kind, stop=str(tmp_path / "stop"))
        path = tmp_path / f"{kind}.py"
        path.write_text(textwrap.dedent(text))
        monkeypatch.setattr(proof, kind.upper(), [str(path)])
    monkeypatch.setenv("MINDCV_GHOST_GRAPHS", str(tmp_path / "graphs"))
    with tiny_registered("tiny_28", side=28):
        yield tmp_path


def words(place, *more):
    folders = {"fashion_mnist": "data", "runs": "runs", "out": "out", "cifar10_jpeg": "none"}
    options = [w for key, name in folders.items() for w in (f"--{key}", str(place / name))]
    return [*options, "--allow_dirty", *more]


@pytest.mark.slow
def test_a_stopped_experiment_goes_on_is_validated_and_recorded_once(place, capfd, monkeypatch):
    (place / "stop").touch()
    assert proof.main(words(place, "--only", ONE.name)) == 2
    assert "status 143 of python" in capfd.readouterr().err
    assert not (place / "out").exists()
    assert proof.main(words(place, "--only", ONE.name)) == 0
    log = (place / "runs" / ONE.name / "train.log").read_text()
    assert "continuing after batch" in log
    result = json.loads((place / "out" / f"{ONE.name}.json").read_text())
    assert (result["row"], result["seed"], result["epochs"]) == (QUICK, 0, 2)
    assert result["images"] == 22 and 0 <= result["correct"] <= 22
    last = pytest.approx(100 * result["correct"] / 22, abs=1e-3)
    assert len(result["curve"]) == 2 and result["curve"][-1] == last
    # 8 maps of 14x14 by 3x3 kernels, as many ghosts, and 784 features to 10 classes.
    assert result["macs"] == 2 * 8 * 14 * 14 * 9 + 784 * 10
    metrics = (place / "out" / f"{ONE.name}_metrics.csv").read_bytes()
    assert metrics == (place / "runs" / ONE.name / "metrics.csv").read_bytes()
    recorded = (place / "out" / f"{ONE.name}_log.txt").read_text()
    assert "continuing after batch" in recorded and str(place / "runs") not in recorded

    capfd.readouterr()
    monkeypatch.setattr(
        proof, "open_source", lambda *_, **__: pytest.fail("there is nothing to do")
    )
    assert proof.main(words(place, "--only", ONE.name)) == 0
    assert f"what was chosen (1) is recorded in {place / 'out'}" in capfd.readouterr().out
    assert proof.main(words(place, "--only", ONE.name, "--list")) == 0
    assert capfd.readouterr().out == f"{ONE.name} recorded\n"


KEYS = ("ckpt_path", "teacher_ckpt")
METRICS = """\
epoch,step,loss,lr,val_loss,top1,top5,images_per_second,epoch_seconds,compile_seconds
15,468,0.1,0.0,0.2,90.0,99.5,300.0,40.0,0.0
"""


class Calls(proof.Runner):
    """Writes what the scripts would write, and notes which were called."""

    def __init__(self, tmp_path, **options):
        data = dict.fromkeys(proof.DATA_SETS, "data")
        super().__init__(tmp_path / "runs", tmp_path / "out", data, allow_dirty=False, **options)
        self.commands: list[list[str]] = []

    def _call(self, words, read=False):
        self.commands.append(words)
        if read:
            return 'log\n{"correct": 9, "images": 10, "unreadable": 0, "top1": 90.0}\n'
        folder = self.runs / words[words.index("--ckpt_save_dir") + 1]
        folder.mkdir(parents=True)
        name = folder.name.split("-")
        facts = {key: "" for key in proof._FACTS}
        facts |= {"recipe": words[words.index("--config") + 1].split("/")[-1], "commit": "abc"}
        facts |= {"seed": int(name[2][4:]), "epochs": ROWS[name[1]].epochs, "seconds": 9.0}
        facts |= {"compile_seconds": 1.0, "ghostify": {"after": {"macs": 7}}}
        if "--teacher_ckpt" in words:
            facts["teacher"] = {"checkpoint": "a.ckpt", "weights": "1f26", "memory_bytes": 5}
        (folder / "run.json").write_text(json.dumps(facts))
        recipe = yaml.safe_load((proof.ROOT / words[words.index("--config") + 1]).read_text())
        given = {key: words[words.index(f"--{key}") + 1] for key in KEYS if f"--{key}" in words}
        (folder / "config.yaml").write_text(yaml.safe_dump({**recipe, **given}))
        (folder / "train.log").write_text(f"of {folder}/last.ckpt\n")
        (folder / "metrics.csv").write_text(METRICS)
        (folder / "last.ckpt").touch()
        return ""


def test_what_an_experiment_depends_on_is_trained_first_and_its_weights_are_given(tmp_path):
    runner = Calls(tmp_path)
    runner.run(Experiment("cifar10_jpeg", "fit_0", 0))
    scripts = [words[0] if words[0] != "-m" else words[1] for words in runner.commands]
    start = "tools.measure.proof_start"
    assert scripts == ["train.py", "validate.py", start, "validate.py"]
    parent = tmp_path / "runs" / "cifar10_jpeg-resnet20-seed0" / "last.ckpt"
    assert runner.commands[2][-2:] == ["--ckpt_path", str(parent)]
    runner.run(Experiment("fashion_mnist", "distilled", 1))
    taught = runner.commands[-2]
    teacher = tmp_path / "runs" / "fashion_mnist-resnet56-seed0" / "last.ckpt"
    assert taught[taught.index("--teacher_ckpt") + 1] == str(teacher)
    assert taught[taught.index("--seed") + 1] == "1" and taught[-2:] == ["--resume", "auto"]


def test_a_record_tells_which_weights_a_run_started_from_or_was_taught_by(tmp_path, monkeypatch):
    monkeypatch.setattr(proof, "_macs", lambda *_: 7)
    runner, fitted = Calls(tmp_path), Experiment("cifar10_jpeg", "fit_0", 0)
    result = runner.record(fitted, runner.run(fitted))
    assert result["parent_weights"] == "cifar10_jpeg-resnet20-seed0/last.ckpt"
    taught = Experiment("fashion_mnist", "distilled", 1)
    result = runner.record(taught, runner.run(taught))
    assert result["parent_weights"] == "fashion_mnist-resnet56-seed0/last.ckpt"
    assert result["teacher"] == {"weights": "1f26", "memory_bytes": 5}
    assert (runner.out / f"{taught.name}_log.txt").read_text() == f"of {taught.name}/last.ckpt\n"
    plain = Experiment("fashion_mnist", "resnet56", 0)
    assert not {"parent_weights", "teacher"} & set(runner.record(plain, runner.run(plain)))


def test_the_weights_of_a_run_that_is_there_come_before_rounded_ones(tmp_path, monkeypatch):
    runner, parent = Calls(tmp_path), Experiment("cifar10_jpeg", "resnet20", 0)
    runner.run(parent)
    monkeypatch.setattr("tools.pages.proof.list_shipped", lambda: pytest.fail("they are rounded"))
    runner.out.mkdir()
    (runner.out / f"{parent.name}.json").write_text("{}")
    assert runner.weights(parent) == tmp_path / "runs" / parent.name / "last.ckpt"


@pytest.mark.parametrize("date", ["recorded", "another"])
def test_weights_that_come_with_the_package_are_taken_if_they_are_of_the_recorded_run(
    tmp_path, monkeypatch, date
):
    run = {"recipe": "a.yaml", "seed": 0, "commit": "abc", "date": "recorded"}
    published = Published(tmp_path / "resnet20", make_card(training=run))
    monkeypatch.setattr("tools.pages.proof.list_shipped", lambda: [published])
    record = {**run, "date": date}
    runner = Calls(tmp_path)
    runner.out.mkdir()
    (runner.out / "cifar10_jpeg-resnet20-seed0.json").write_text(json.dumps(record))
    runner.run(Experiment("cifar10_jpeg", "fit_0", 0))
    start = runner.commands[-2]
    if date == "recorded":
        assert len(runner.commands) == 2 and start[-2:] == ["--ckpt_path", str(published.weights)]
    else:
        assert len(runner.commands) == 4 and "cifar10_jpeg-resnet20-seed0" in start[-1]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"epochs": 3}, "isn't a finished run"),
        ({"stopped_by": "SIGTERM"}, "isn't a finished run"),
        ({"seed": 5}, "was run with {'seed': 5}"),
        ({"recipe": "other.yaml"}, "other.yaml"),
        ({"commit": "abc-dirty"}, "nobody could repeat it"),
        ({"commit": None}, "nobody could repeat it"),
    ],
)
def test_only_a_finished_run_of_its_own_settings_from_a_commit_is_recorded(
    tmp_path, changes, message
):
    runner, experiment = Calls(tmp_path), Experiment("cifar10_jpeg", "fit_0", 0)
    folder = runner.run(experiment)
    path = folder / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ReportError, match=message):
        runner.record(experiment, folder)
    assert not (tmp_path / "out").exists()


def test_batches_are_timed_in_turns_and_their_medians_recorded(tmp_path, monkeypatch):
    calls = {(row, size): lambda: None for row in "ab" for size in (1, 32)}
    turns = []

    def median_seconds(call, seconds):
        turns.append(call)
        return len(turns) / 1e3

    steps = {"a": lambda: None, "taught": lambda: None}
    monkeypatch.setattr(proof_times, "_batches", lambda data: calls)
    monkeypatch.setattr(proof_times, "_steps", lambda data: steps)
    monkeypatch.setattr("tools.measure.turns._median_seconds", median_seconds)
    monkeypatch.setattr(proof_times.compat, "set_up", lambda *arguments: None)
    monkeypatch.setattr("tools.measure.commits.source_commit", lambda: "abc")
    assert proof.main(["--times", "--data", "fashion_mnist", "--out", str(tmp_path)]) == 0
    assert turns == [*calls.values()] * proof_times.ROUNDS + [*steps.values()] * proof_times.ROUNDS
    result = json.loads((tmp_path / "times_fashion_mnist.json").read_text())
    # The median of five rounds is the third: calls 9 to 12.
    times = {"a": {"1": 9.0, "32": 10.0}, "b": {"1": 11.0, "32": 12.0}}
    assert (result["data"], result["milliseconds"]) == ("fashion_mnist", times)
    # After 20 calls, the third of the rounds of two: calls 25 and 26.
    assert result["step_milliseconds"] == {"a": 25.0, "taught": 26.0}
    assert result["step_images"] == 128
    assert result["kind"] == "proof_times" and result["hardware"]


def test_only_the_data_of_experiments_that_are_left_are_opened(place, monkeypatch, capsys):
    other = Experiment("cifar10_jpeg", "resnet20", 0)
    (place / "out").mkdir()
    (place / "out" / f"{ONE.name}.json").write_text("{}")
    opened = []

    def open_source(name, *_, **__):
        opened.append(name)
        raise DataError("no images")

    monkeypatch.setattr(proof, "open_source", open_source)
    assert proof.main(words(place, "--only", ONE.name, other.name)) == 2
    assert opened == ["cifar10"] and "CIFAR-10 as JPEG can't be used" in capsys.readouterr().err


def test_a_data_set_whose_folder_is_not_given_is_where_the_recipe_says(tmp_path):
    runner = proof.Runner(tmp_path, tmp_path, {"fashion_mnist": "/clothes"}, allow_dirty=False)
    assert runner.data_words("fashion_mnist") == ["--data_dir", "/clothes"]
    assert runner.data_words("cifar10_jpeg") == []


@pytest.mark.parametrize("commit", ["abc-dirty", None])
def test_nothing_is_trained_that_could_not_be_recorded(place, commit, monkeypatch, capsys):
    monkeypatch.setattr("tools.measure.commits.source_commit", lambda: commit)
    monkeypatch.setattr(proof.Runner, "_call", lambda *_: pytest.fail("it can't be recorded"))
    arguments = [word for word in words(place, "--only", ONE.name) if word != "--allow_dirty"]
    assert proof.main(arguments) == 2
    assert "commit first" in capsys.readouterr().err


def test_missing_data_are_named_with_the_way_to_get_them(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(proof.Runner, "_call", lambda *_: pytest.fail("nothing can be trained"))
    options = ["--cifar10_jpeg", str(tmp_path), "--data", "cifar10_jpeg"]
    assert proof.main([*options, "--out", str(tmp_path / "nothing recorded")]) == 2
    text = capsys.readouterr().err
    assert "CIFAR-10 as JPEG can't be used" in text and "git clone" in text


def test_a_part_of_a_data_set_proves_nothing(place, capsys, monkeypatch):
    monkeypatch.setitem(proof.IMAGES, "fashion_mnist", (60_000, 10_000))
    monkeypatch.setattr(proof.Runner, "_call", lambda *_: pytest.fail("nothing is trained"))
    assert proof.main(words(place, "--only", ONE.name)) == 2
    text = capsys.readouterr().err
    assert "has 60,000 training and 10,000 test images" in text


def test_a_list_that_is_recorded_says_that_nothing_is_left(tmp_path, capsys):
    (tmp_path / f"{ONE.name}.json").write_text("{}")
    assert proof.main(["--only", ONE.name, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"nothing to run: what was chosen (1) is recorded in {tmp_path}; with another folder for "
        "--out it is run again\n"
    )


def test_an_unknown_experiment_is_named(capsys):
    assert proof.main(["--only", "nothing"]) == 2
    assert "no experiment nothing; --list names all" in capsys.readouterr().err


def test_the_tool_runs_as_a_module_and_lists_the_main_pair_first():
    command = [sys.executable, "-m", "tools.measure.proof", "--list"]
    done = subprocess.run(command, cwd=proof.ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:2]] == [
        "cifar10_jpeg-resnet20-seed0",
        "cifar10_jpeg-ghost_resnet20-seed0",
    ]


def test_a_fitted_start_is_a_run_of_no_epochs_whose_weights_are_there(tmp_path):
    write_clothes(tmp_path / "data")
    plain = mindcv.create_model("ghost_resnet20_cifar", num_classes=10, in_channels=1, ratio=1)
    save_weights(list(plain.get_parameters()), tmp_path / "plain.ckpt")
    recipe = proof.RECIPES / "ghost_resnet20_cifar_fashion_mnist.yaml"
    options = {"config": recipe, "data_dir": "data", "ckpt_path": "plain.ckpt"}
    options["model_args"] = "ratio=1"
    arguments = [str(w) for key, value in options.items() for w in (f"--{key}", value)]
    # One of the 19 convolutions, so that the test takes seconds.
    one = ["--ghostify", "init=fit", "image_size=28", "calibration_images=16"]
    one += ["where=[layer3.2.conv2.*]"]
    command = [sys.executable, *proof.START, *arguments, "--ckpt_save_dir", "run", *one]
    environ = {**os.environ, "PYTHONPATH": str(proof.ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert proof.is_finished(tmp_path / "run", 0)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (facts["ghostify"]["init"], facts["recipe"]) == ("fit", recipe.name)
    replaced = [row["name"] for row in facts["ghostify"]["convolutions"] if row["replaced"]]
    assert replaced == ["layer3.2.conv2.primary.conv"]
    names = mindspore.load_checkpoint(str(tmp_path / "run" / "last.ckpt"))
    assert "layer3.2.conv2.primary.conv.order" in names
