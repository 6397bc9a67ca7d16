"""``mindcv-ghost publish RUN_DIR OUT``: pack a finished run's weights for others to use.

mindcv-ghost publish runs/ghost_resnet50 published/imagenet --license Apache-2.0
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from pathlib import Path

from mindcv_ghost import compat
from mindcv_ghost.config import Config, load_config
from mindcv_ghost.errors import CheckpointError, ConfigError, UserError
from mindcv_ghost.launch.world import detect
from mindcv_ghost.program import program
from mindcv_ghost.report.finished_run import FinishedRun, read_finished_run
from mindcv_ghost.run.imports import importing_without_gc
from mindcv_ghost.storage.run_folder import is_numbered_checkpoint
from mindcv_ghost.storage.staging import folder_problem, is_claimed

__all__ = ["main"]

_FORMATS = ("ckpt", "pytorch")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("publish"),
        description="Pack the weights of a finished run with its recipe, its metrics, a card and "
        "checksums. The published file is validated, so the run's validation set must be there.",
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="run folder of a training")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; new or empty")
    parser.add_argument(
        "--license", required=True, help="licence of the weights, as Apache-2.0 or CC-BY-4.0"
    )
    parser.add_argument("--name", help="what --pretrained calls it (the name of OUT)")
    parser.add_argument(
        "--data_name", default="", help="what the card calls the data (dataset, or the folder)"
    )
    parser.add_argument(
        "--checkpoint",
        metavar="FILE",
        help="weights to publish: last, best or the name of another checkpoint in RUN_DIR (best, "
        "or last of a run without validation)",
    )
    parser.add_argument(
        "--use_ema",
        nargs="?",
        const="true",
        type=str.lower,
        choices=("true", "false"),
        help="publish the checkpoint's averaged weights, or those that were trained (as the run "
        "was validated: the averaged ones if it has ema)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of convolutions and linear layers in the files (float32)",
    )
    parser.add_argument(
        "--format",
        nargs="*",
        choices=_FORMATS,
        default=_FORMATS,
        help="files besides model.safetensors (ckpt pytorch)",
    )
    parser.add_argument("--data_dir", metavar="FOLDER", help="where the data are (as in the run)")
    return parser


def main(argv: list[str]) -> int:
    """Publish; return the exit status."""
    args = _parser().parse_args(argv)
    _check_words(args)
    run = read_finished_run(args.run)
    _check_out(args.out)
    name = args.name or args.out.resolve().name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: give letters, digits, '_', '-' and '.'")
    trained = load_config(["--config", str(args.run / "config.yaml")], script="train")
    _check_epochs(run, trained.train.epoch_size)
    use_ema = trained.train.ema if args.use_ema is None else args.use_ema == "true"
    config = _config(args, _checkpoint(run, args.checkpoint), use_ema)
    world = detect(os.environ)
    if world.size > 1:
        raise ConfigError(f"publish is one process, and {world.launcher} has started {world.size}")
    compat.refuse_unsupported_versions()

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.run.publication import Publication, Wishes
        from mindcv_ghost.run.session import open_session

    wishes = Wishes(args.out, name, args.license, args.data_name, args.dtype, tuple(args.format))
    with open_session(config, world, writes=False) as session:
        publication = Publication(run, config, _started_from(trained), wishes, world, session)
        card, digest = publication.write()
    print(f"{args.out}: {card.model} {name}, top-1 {card.top1}")
    print(f"use it with --pretrained {args.out}")
    print(f"or from a web server, with --pretrained https://HOST/PATH#sha256={digest}")
    sys.stdout.flush()
    return 0


def _check_words(args: argparse.Namespace) -> None:
    """Refuse what the card can't show: each is a cell of a table in Markdown."""
    texts = [("license", args.license, "the licence, as Apache-2.0")]
    if args.data_name:
        texts.append(("data_name", args.data_name, "a name, as ImageNet-1k"))
    for option, given, legal in texts:
        if not _is_cell(given):
            raise ConfigError(
                f"--{option} {given!r}: give {legal}, in one printable line without '|'"
            )


def _is_cell(text: str) -> bool:
    return bool(text.strip()) and text.isprintable() and "|" not in text


def _check_epochs(run: FinishedRun, wanted: int) -> None:
    done, stopped_by = run.facts.get("epochs"), run.facts.get("stopped_by")
    if done is None:
        raise UserError(
            f"the run in {run.folder} hasn't ended: run.json has no result yet. Wait for it, or "
            "finish it with --resume auto."
        )
    if stopped_by or done < wanted:
        raise UserError(
            f"the run in {run.folder} was stopped after epoch {done} of {wanted} "
            f"({stopped_by or 'unfinished'}). Finish it with --resume auto, and publish then."
        )


def _check_out(out: Path) -> None:
    try:
        if is_claimed(out):
            raise ConfigError(
                f"another publish is writing to {out}, or was killed there: give a new folder, or "
                "remove it if none is running"
            )
        if out.is_dir() and any(out.iterdir()):
            raise ConfigError(f"{out} isn't empty: give a new folder")
        problem = folder_problem(out)
    except OSError as error:
        problem = f"it can't be looked into ({error.strerror or error})"
    if problem:
        raise ConfigError(f"{out}: {problem}; give another folder")


def _checkpoint(run: FinishedRun, asked: str | None) -> Path:
    """Return the file of the run that is to be published.

    Raises:
        CheckpointError: if there is none, it can't be read, or isn't the run's.
    """
    path = _chosen(run, asked)
    if path == run.folder / "best.ckpt" and not run.was_validated:
        raise CheckpointError(
            f"the run in {run.folder} wasn't validated, so that it has no best.ckpt of its own: "
            "--checkpoint last publishes the last epoch's weights"
        )
    try:
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        if not asked and path.name == "best.ckpt":
            raise CheckpointError(
                f"the run in {run.folder} was validated, but its best.ckpt is gone: --checkpoint "
                "last publishes the last epoch's weights"
            ) from None
        raise CheckpointError(f"there is no checkpoint {path}: {_choice(run)}") from None
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error.strerror or error})") from error
    # The card says how these weights were trained, and the run folder alone knows that.
    if asked not in (None, "", "best", "last") and path.resolve().parent != run.folder.resolve():
        raise CheckpointError(
            f"--checkpoint {path} isn't in the run folder {run.folder}, whose recipe and results "
            "the card states: give a file that is in it, or the run folder of that file"
        )
    # Others there may be of an earlier run, or were given up by this one: best.1.ckpt, ...
    if not (_is_the_runs(run, path.name) and _is_the_runs(run, path.resolve().name)):
        raise CheckpointError(
            f"{path} may be of another training: only last.ckpt, best.ckpt and "
            f"{run.facts.get('model')}-EPOCH_STEPS.ckpt are this run's: {_choice(run)}"
        )
    return path


def _chosen(run: FinishedRun, asked: str | None) -> Path:
    """Return the path that is meant; a name without a folder is one in the run folder."""
    if asked and asked not in ("best", "last"):
        return Path(asked) if os.path.dirname(asked) else run.folder / asked
    return run.folder / f"{asked or ('best' if run.was_validated else 'last')}.ckpt"


def _is_the_runs(run: FinishedRun, name: str) -> bool:
    model = str(run.facts.get("model"))
    return name in ("best.ckpt", "last.ckpt") or is_numbered_checkpoint(name, model)


def _choice(run: FinishedRun) -> str:
    """Say which files of the run can be published."""
    names = sorted(p.name for p in run.folder.glob("*.ckpt") if _is_the_runs(run, p.name))
    there = f"the run folder has {', '.join(names)}" if names else "the run folder has none"
    return f"choose one with --checkpoint FILE ({there})"


def _config(args: argparse.Namespace, checkpoint: Path, use_ema: bool) -> Config:
    """Read the run's configuration as ``validate`` does, with the checkpoint to publish."""
    words = ["--config", str(args.run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    words += ["--use_ema", str(use_ema)]
    if args.data_dir:
        words += ["--data_dir", args.data_dir]
    config = load_config(words, script="validate")
    evaluate = dataclasses.replace(config.evaluate, per_class="", confusion="", onnx="")
    return dataclasses.replace(config, evaluate=evaluate)


def _started_from(trained: Config) -> str:
    """Name the weights that a training began with, without their folder on this machine."""
    model = trained.model
    if model.ckpt_path:
        return Path(model.ckpt_path).name
    if isinstance(model.pretrained, str):
        is_path = "/" in model.pretrained and "://" not in model.pretrained
        return Path(model.pretrained).name if is_path else model.pretrained
    return "MindCV's published weights" if model.pretrained else ""
