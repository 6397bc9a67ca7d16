"""``mindcv-ghost publish RUN_DIR OUT``: pack a finished run's weights for others to use.

mindcv-ghost publish runs/ghost_resnet50 published/imagenet --license Apache-2.0
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mindcv_ghost import compat
from mindcv_ghost.config import Config, load_config
from mindcv_ghost.errors import CheckpointError, ConfigError, UserError, tells_user_errors
from mindcv_ghost.launch.world import detect
from mindcv_ghost.program import program
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.run.imports import importing_without_gc
from mindcv_ghost.storage.staging import folder_problem

__all__ = ["main"]

_RUN_FILES = ("config.yaml", "run.json", "metrics.csv")
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
        help="weights to publish: last, best or a file (best, or last of a run without validation)",
    )
    parser.add_argument(
        "--use_ema", action="store_true", help="publish the checkpoint's averaged weights"
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


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Publish; return the exit status."""
    args = _parser().parse_args(argv)
    facts = _finished(args.run)
    _check_out(args.out)
    name = args.name or args.out.resolve().name
    if not _NAME.fullmatch(name):
        raise ConfigError(f"--name {name!r}: give letters, digits, '_', '-' and '.'")
    checkpoint = _checkpoint(args.run, args.checkpoint)
    trained = load_config(["--config", str(args.run / "config.yaml")], script="train")
    config = _config(args, checkpoint)
    _check_epochs(args.run, facts, trained.train.epoch_size)
    world = detect(os.environ)
    if world.size > 1:
        raise ConfigError(f"publish is one process, and {world.launcher} has started {world.size}")
    compat.refuse_unsupported_versions()
    os.environ.setdefault("GLOG_v", "3")  # MindSpore's log: errors alone

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.run.publication import Publication, Wishes
        from mindcv_ghost.run.session import open_session

    wishes = Wishes(args.out, name, args.license, args.data_name, args.dtype, tuple(args.format))
    with open_session(config, world, writes=False) as session:
        publication = Publication(args.run, config, _started_from(trained), wishes, world, session)
        card, digest = publication.write()
    print(f"{args.out}: {card.model} {name}, top-1 {card.top1}")
    print(f"use it with --pretrained {args.out}")
    print(f"or from a web server, with --pretrained https://HOST/PATH#sha256={digest}")
    sys.stdout.flush()
    return 0


def _finished(run: Path) -> dict[str, Any]:
    """Return the facts of ``run.json``.

    Raises:
        UserError: if the folder isn't a finished run's.
    """
    if not run.is_dir():
        raise CheckpointError(f"{run}: there is no such run folder (--ckpt_save_dir of a training)")
    missing = [name for name in _RUN_FILES if not (run / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{run} lacks {', '.join(missing)}: give the run folder (ckpt_save_dir) of a training"
        )
    return read_json(run / "run.json")


def _check_epochs(run: Path, facts: dict[str, Any], wanted: int) -> None:
    done = facts.get("epochs")
    if done is None:
        raise UserError(
            f"the run in {run} hasn't ended: run.json has no result yet. Wait for it, or finish it "
            "with --resume auto."
        )
    if facts.get("stopped_by") or done < wanted:
        raise UserError(
            f"the run in {run} was stopped after epoch {done} of {wanted} "
            f"({facts.get('stopped_by', 'unfinished')}). Finish it with --resume auto, and publish "
            "then."
        )


def _check_out(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise ConfigError(f"{out} isn't empty: give a new folder")
    problem = folder_problem(out)
    if problem:
        raise ConfigError(f"{out}: {problem}; give another folder")


def _checkpoint(run: Path, asked: str | None) -> Path:
    if asked in ("best", "last"):
        path = run / f"{asked}.ckpt"
    elif asked:
        path = Path(asked)
    else:
        best = run / "best.ckpt"
        path = best if best.is_file() else run / "last.ckpt"
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}: choose one with --checkpoint FILE")
    return path


def _config(args: argparse.Namespace, checkpoint: Path) -> Config:
    """Read the run's configuration as ``validate`` does, with the checkpoint to publish."""
    words = ["--config", str(args.run / "config.yaml"), "--ckpt_path", str(checkpoint)]
    words += ["--use_ema", str(args.use_ema)]
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
