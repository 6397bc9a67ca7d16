"""Runs that go on longer than planned, or with another recipe, as a user does it."""

from __future__ import annotations

import json
import shutil

import pytest
from safetensors import safe_open

from mindcv_ghost.config import load_config
from mindcv_ghost.config.keys import SchedulerConfig
from mindcv_ghost.run.schedule import create_run_schedule

from .conftest import CLASSES, ROOT, SIDE, Done, Scripts, recipe, rows, write_images

CLOCKS = {"images_per_second", "epoch_seconds", "compile_seconds"}
STEPS = 6  # an epoch: 48 images in batches of 8


class Runs:
    """Trains a network that compiles in a second."""

    def __init__(self, cwd, images) -> None:
        self.scripts, self.images = Scripts(cwd), images
        self.scripts.environ["PYTHONPATH"] = str(ROOT)
        self.scripts.environ["MINDCV_GHOST_GRAPHS"] = str(cwd / "graphs")
        self.cwd = cwd

    def train(self, folder: str, ranks: int = 1, status: int = 0, **changes) -> Done:
        options = recipe(
            changes.pop("images", self.images),
            **{
                **{"model": "tiny", "image_resize": SIDE, "batch_size": 8 // ranks},
                **{"ema": "true", "ckpt_save_dir": folder, **changes},
            },
        )
        script = "tests/faults/tiny.py"
        return self.scripts.script(script, *options, ranks=ranks, status=status)

    def copy(self, folder: str, name: str) -> str:
        shutil.copytree(self.cwd / folder, self.cwd / name)
        return name

    def facts(self, folder: str) -> dict:
        return json.loads((self.cwd / folder / "run.json").read_text())

    def outcome(self, folder: str) -> tuple[dict[str, bytes], list[dict]]:
        """All arrays of the last state, and the rows of metrics.csv without times."""
        path = sorted((self.cwd / folder / "resume").glob("*.safetensors"))[-1]
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
        table = [{k: v for k, v in r.items() if k not in CLOCKS} for r in rows(self.cwd / folder)]
        return arrays, table


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory) -> Runs:
    return Runs(tmp_path_factory.mktemp("going_on"), images)


@pytest.fixture(scope="module")
def finished(runs) -> str:
    """The folder of a finished run of two epochs."""
    runs.train("finished", epoch_size=2, keep_checkpoint_max=2)
    return "finished"


@pytest.fixture(scope="module")
def extended(runs, finished) -> tuple[str, Done]:
    """A copy of the finished run that went on to four epochs."""
    folder = runs.copy(finished, "extended")
    return folder, runs.train(folder, resume="auto", epoch_size=4, keep_checkpoint_max=2)


@pytest.fixture(scope="module")
def cosine(runs) -> Done:
    """A run by a cosine over two epochs that went on to a cosine over four."""
    options = {"scheduler": "cosine_decay", "min_lr": 0.0, "ckpt_save_policy": "top_k"}
    runs.train("cosine", epoch_size=2, decay_epochs=2, **options)
    return runs.train("cosine", resume="auto", epoch_size=4, decay_epochs=4, **options)


def assert_equal(runs: Runs, folder: str, whole: str) -> None:
    ours, theirs = runs.outcome(folder), runs.outcome(whole)
    assert [name for name in theirs[0] if ours[0].get(name) != theirs[0][name]] == []
    assert ours == theirs
    assert any(name.startswith("ema.") for name in ours[0])
    assert [row["epoch"] for row in ours[1]] == ["1", "2", "3", "4"]


def test_a_finished_run_goes_on_and_ends_like_a_whole_one_bit_for_bit(runs, extended):
    folder, done = extended
    whole = runs.train("whole", epoch_size=4, keep_checkpoint_max=2)
    assert_equal(runs, folder, "whole")
    assert "before: epoch_size 2: it had ended after epoch 2 with lr 0.02\n" in done.out
    assert "now: epoch_size 4: lr 0.02 to the end of epoch 4\n" in done.out
    # MindCV would warn of decay_epochs, which a constant rate doesn't have.
    assert "warning" not in (done.out + done.err).lower()
    # The compiled step holds the schedule: the longer one needs another graph, and a run with the
    # same longer schedule takes it.
    cached = "the compiled step comes from the cache"
    assert (cached in done.out, cached in whole.out) == (False, True)


def test_an_extended_run_folder_holds_everything(runs, finished, extended):
    folder = runs.cwd / extended[0]
    names = {path.name for path in folder.iterdir()}
    kept = {"tiny-3_6.ckpt", "tiny-4_6.ckpt"}
    assert {name for name in names if name.startswith("tiny-")} == kept
    assert {"best.ckpt", "last.ckpt", "config.1.yaml", "run.1.json"} <= names
    assert "epoch_size: 4" in (folder / "config.yaml").read_text()
    assert "epoch_size: 2" in (folder / "config.1.yaml").read_text()
    facts, before = runs.facts("extended"), runs.facts(finished)
    assert json.loads((folder / "run.1.json").read_text()) == before
    assert (before["epochs"], facts["epochs"]) == (2, 4)
    change = {"epoch": 2, "step": 0, "batches": 2 * STEPS}
    assert facts["history"] == [{**change, "changes": ["epoch_size: 2 before, 4 now"]}]
    assert "history" not in before
    best = max(rows(folder), key=lambda row: float(row["top1"]))
    assert (facts["best_epoch"], facts["best_top1"]) == (
        int(best["epoch"]),
        pytest.approx(float(best["top1"])),
    )
    assert facts["seconds"] > before["seconds"]


@pytest.mark.slow
def test_with_two_ranks_a_finished_run_goes_on_bit_for_bit(runs):
    runs.train("finished2", ranks=2, epoch_size=2, keep_checkpoint_max=2)
    runs.train("whole2", ranks=2, epoch_size=4, keep_checkpoint_max=2)
    done = runs.train("finished2", 2, resume="auto", epoch_size=4, keep_checkpoint_max=2)
    assert_equal(runs, "finished2", "whole2")
    assert done.out.count("now: epoch_size 4: lr 0.02 to the end of epoch 4") == 1


@pytest.mark.slow
def test_a_longer_cosine_has_the_rates_of_the_longer_recipe(runs, cosine):
    found = [float(row["lr"]) for row in rows(runs.cwd / "cosine")]
    for epochs, epoch in ((2, 1), (2, 2), (4, 3), (4, 4)):
        section = SchedulerConfig(
            "cosine_decay", lr=0.02, min_lr=0.0, warmup_epochs=0, decay_epochs=epochs
        )
        schedule = create_run_schedule(section, epochs, STEPS)
        assert found[epoch - 1] == float(f"{schedule[epoch * STEPS - 1]:.8g}")
    assert "before: decay_epochs 2, epoch_size 2: it had ended after epoch 2 with lr" in cosine.out
    assert "now: decay_epochs 4, epoch_size 4: lr 0.01 from epoch 3 on, " in cosine.out


@pytest.mark.slow
def test_a_cosine_that_is_not_lengthened_is_told_to_stay_low(runs, cosine):
    folder = runs.copy("cosine", "low")
    options = {"scheduler": "cosine_decay", "min_lr": 0.0, "decay_epochs": 4, "resume": "auto"}
    done = runs.train(folder, epoch_size=5, ckpt_save_policy="top_k", **options)
    assert "now: epoch_size 5: lr 0 to the end of epoch 5" in done.out
    assert "give its decay_epochs" in done.out


@pytest.mark.slow
def test_named_changes_are_accepted_and_others_refused(runs, finished):
    changes = {"lr": 0.01, "weight_decay": 0.001, "epoch_size": 3, "keep_checkpoint_max": 2}
    folder = runs.copy(finished, "named")
    before = {p: p.read_bytes() for p in (runs.cwd / folder).rglob("*") if p.is_file()}
    refused = runs.train(folder, resume="auto", status=2, **changes)
    assert "add --resume_anyway lr weight_decay." in refused.err
    assert "Traceback" not in refused.out + refused.err
    after = {p: p.read_bytes() for p in before}
    assert [p.name for p in before if before[p] != after[p]] == ["train.log"]
    names = ("lr", "weight_decay")
    done = runs.train(folder, resume="auto", resume_anyway=names, **changes)
    accepted = "as --resume_anyway accepts"
    assert f"warning: from here on lr: 0.02 before, 0.01 now, {accepted}" in done.out
    assert f"weight_decay: 1e-06 before, 0.001 now, {accepted}" in done.out
    assert [row["lr"] for row in rows(runs.cwd / folder)] == ["0.02", "0.02", "0.01"]
    again = runs.train(folder, resume="auto", resume_anyway=names, **changes)
    assert "--resume_anyway lr: nothing to accept here" in again.out
    assert "the run is finished: 3 of 3 epochs" in again.out


@pytest.mark.slow
def test_a_job_that_is_requeued_before_it_could_save_a_state_keeps_the_old_settings_once(
    runs, finished
):
    folder = runs.copy(finished, "requeued")
    options = {"epoch_size": 3, "keep_checkpoint_max": 2, "resume": "auto"}
    runs.train(folder, **options)
    outcome = runs.outcome(folder)
    shutil.rmtree(runs.cwd / folder / "resume")
    shutil.copytree(runs.cwd / finished / "resume", runs.cwd / folder / "resume")
    runs.train(folder, **options)
    assert runs.outcome(folder) == outcome
    names = [path.name for path in (runs.cwd / folder).glob("*.[0-9].*")]
    assert sorted(names) == ["config.1.yaml", "run.1.json"]
    assert len(runs.facts(folder)["history"]) == 1


@pytest.mark.slow
def test_a_resumed_run_s_files_tell_what_the_run_started_from(runs, finished):
    start = f"{finished}/last.ckpt"
    runs.train("started", epoch_size=1, keep_checkpoint_max=2, ckpt_path=start)
    changes = {"epoch_size": 2, "keep_checkpoint_max": 2, "resume": "auto"}
    refused = runs.train("started", status=2, ckpt_path=f"{finished}/best.ckpt", **changes)
    assert f"ckpt_path: {start} before, {finished}/best.ckpt now (can't: the run has" in refused.err
    done = runs.train("started", **changes)
    assert f"the run started with ckpt_path {start}: config.yaml keeps that" in done.out
    config = load_config(["--config", str(runs.cwd / "started" / "config.yaml")])
    assert (config.model.ckpt_path, config.train.epoch_size) == (start, 2)
    # Its last state knows it, too.
    runs.train("further", resume=runs.cwd / "started", epoch_size=3)
    assert f'ckpt_path: "{start}"' in (runs.cwd / "further" / "config.yaml").read_text()


def test_a_change_that_needs_other_arrays_is_refused_and_changes_no_file(runs, finished):
    folder = runs.copy(finished, "arrays")
    for name in ("validate.json", "confusion.png", "learning_curve.png", "diverged.json"):
        (runs.cwd / folder / name).write_text(name)
    older = f"{folder}/resume/000001_epoch1_step0.safetensors"
    # Nesterov's momentum is another optimizer on the CPU, whose state has other names.
    changes = {"use_nesterov": "true", "resume_anyway": "use_nesterov", "keep_checkpoint_max": 2}
    for resume, epochs in (("auto", 3), (older, 2)):
        before = {p: p.read_bytes() for p in (runs.cwd / folder).rglob("*") if p.is_file()}
        refused = runs.train(folder, status=2, epoch_size=epochs, resume=resume, **changes)
        assert "holds the state of another network or optimizer" in refused.err
        assert "--resume_anyway accepted another use_nesterov; a change that needs" in refused.err
        after = {p: p.read_bytes() for p in (runs.cwd / folder).rglob("*") if p.is_file()}
        assert after.keys() == before.keys()
        assert [p.name for p in before if before[p] != after[p]] == ["train.log"]


def test_more_images_of_the_same_classes_are_accepted(runs, finished, tmp_path):
    write_images(tmp_path / "train", dict.fromkeys(CLASSES, 10), seed=3)
    shutil.copytree(runs.images / "val", tmp_path / "val")
    folder = runs.copy(finished, "images")
    changes = {"images": tmp_path, "epoch_size": 3, "resume": "auto", "keep_checkpoint_max": 2}
    done = runs.train(folder, resume_anyway="data_dir", **changes)
    assert "from here on training_set: 48 images" in done.out
    assert [row["step"] for row in rows(runs.cwd / folder)] == ["6", "12", "19"]


def test_the_longer_run_may_have_a_folder_of_its_own(runs, finished):
    source = runs.cwd / finished
    before = {p: p.read_bytes() for p in source.rglob("*") if p.is_file()}
    runs.train("elsewhere", resume=source, epoch_size=3, ckpt_save_policy="top_k")
    assert {p: p.read_bytes() for p in source.rglob("*") if p.is_file()} == before
    folder = runs.cwd / "elsewhere"
    assert [row["epoch"] for row in rows(folder)] == ["1", "2", "3"]
    names = {path.name for path in folder.iterdir()}
    assert {"best.ckpt", "last.ckpt", "tiny-3_6.ckpt"} <= names
    # The best epoch is one of the source's, or the one that was trained here.
    is_new = runs.facts("elsewhere")["best_epoch"] == 3
    best = folder / "tiny-3_6.ckpt" if is_new else source / "best.ckpt"
    assert (folder / "best.ckpt").read_bytes() == best.read_bytes()
