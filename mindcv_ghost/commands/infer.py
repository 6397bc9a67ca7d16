"""``mindcv-ghost infer IMAGE ...``: which classes images show, by an exported network.

An .onnx file needs neither MindSpore nor MindCV.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindcv_ghost import compat
from mindcv_ghost.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    UserError,
    tells_user_errors,
)
from mindcv_ghost.program import program

if TYPE_CHECKING:
    from mindcv_ghost.config import Config
    from mindcv_ghost.inference.classifier import Classifier
    from mindcv_ghost.inference.formats import Format
    from mindcv_ghost.inference.preprocessing import Picture

__all__ = ["main"]

_MOST_THREADS = 1024


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("infer"),
        description="Classify images by an exported network. An image that can't be read is told, "
        "the others go on, and the exit status is 1 in the end.",
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="IMAGE",
        help="a file; a folder, with those in it; a quoted pattern, as 'val/**/*.png'; or - for "
        "one image from standard input",
    )
    parser.add_argument(
        "--model",
        type=Path,
        metavar="FILE",
        help=".onnx, .mindir or .ckpt (the only .onnx file of the working directory)",
    )
    parser.add_argument(
        "--pretrained",
        metavar="NAME",
        help="published weights, with their recipe, instead of --model and --config: a name that "
        f"`{program('weights')}` lists, a folder or URL#sha256=DIGITS",
    )
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes an image (5)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object an image")
    form.add_argument("--csv", action="store_true", help="print CSV, a line a class")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="images at once (8)")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of ONNX Runtime (one a core)"
    )
    parser.add_argument(
        "--config",
        metavar="RECIPE",
        help="for a .ckpt (default: config.yaml beside it), or for the file of another program",
    )
    parser.add_argument(
        "--use_ema", action="store_true", help="for a .ckpt: load its averaged weights"
    )
    return parser


@tells_user_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Classify pictures and print the results; return the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    # Options may stand between images, but what follows -- is no option.
    parser = _parser()
    args = parser.parse_args(words) if "--" in words else parser.parse_intermixed_args(words)
    _check(args)
    from mindcv_ghost.inference.pictures import find_pictures

    names, problems = find_pictures(args.pictures)
    classifier = _open_published(args) if args.pretrained else _open_file(args)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    good = _classify(classifier, names, args)
    return 0 if good and not problems else 1


def _check(args: argparse.Namespace) -> None:
    for name, least in (("topk", 1), ("batch_size", 1), ("threads", 0)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
    if args.threads > _MOST_THREADS:
        raise ConfigError(f"--threads is {args.threads}; it must be at most {_MOST_THREADS}")
    if args.pretrained:
        for option in ("model", "config", "use_ema", "threads"):
            if getattr(args, option):
                raise ConfigError(f"--pretrained takes the place of --{option}: leave one out")
    if args.pictures.count("-") > 1:
        raise ConfigError("- can be given once: standard input has one image")


def _only_onnx_file() -> Path:
    found = sorted(Path().glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    there = f"{len(found)} of them: {', '.join(map(str, found[:5]))}" if found else "none"
    raise ConfigError(
        "give --model FILE.onnx. Without it, the only .onnx file of the working directory is "
        f"taken, which has {there}"
    )


def _open_published(args: argparse.Namespace) -> Classifier:
    from mindcv_ghost.commands.job import use_published

    words = ["--pretrained", args.pretrained]
    config = _read_recipe(words)
    if not isinstance(config.model.pretrained, str):
        raise ConfigError(
            f"--pretrained {args.pretrained}: give a name that `{program('weights')}` lists, a "
            "folder or URL#sha256=DIGITS; MindCV's own weights are for validate, train and export"
        )
    return _open_recipe(use_published(words, config, "validate"))


def _open_file(args: argparse.Namespace) -> Classifier:
    model = args.model or _only_onnx_file()
    is_checkpoint = model.suffix in (".ckpt", ".safetensors")
    if args.use_ema and not is_checkpoint:
        raise ConfigError(
            f"--use_ema chooses weights of a .ckpt; {model} was exported with one set of them "
            "(`mindcv-ghost export --use_ema`)"
        )
    if args.threads and model.suffix != ".onnx":
        raise ConfigError(f"--threads is for ONNX Runtime, which doesn't run {model}: leave it out")
    if is_checkpoint:
        return _open_checkpoint(model, args)
    from mindcv_ghost.inference.classifier import Classifier

    if not args.config:
        return Classifier(model, threads=args.threads)
    config = _read_recipe(["--config", args.config])
    from mindcv_ghost.run.preprocessing import describe_recipe

    description = describe_recipe(config)
    classifier = Classifier(model, threads=args.threads, description=description)
    if classifier.description.preprocessing != description.preprocessing:
        raise ConfigError(
            f"--config {args.config}: {model} has its own preprocessing, which differs from the "
            "recipe's: leave --config out"
        )
    return classifier


def _open_checkpoint(model: Path, args: argparse.Namespace) -> Classifier:
    from mindcv_ghost.data.sets.paths import file_problem

    problem = file_problem(model)
    if problem:
        raise CheckpointError(f"{model} {problem}")
    beside = model.with_name("config.yaml")
    if not args.config and file_problem(beside):
        raise CheckpointError(
            f"{model} has weights alone: give the recipe that the network was trained by, with "
            "--config RECIPE (a training writes config.yaml beside its checkpoints)"
        )
    words = ["--config", args.config or str(beside), "--ckpt_path", str(model)]
    return _open_recipe(_read_recipe([*words, "--use_ema", str(args.use_ema)]))


def _open_recipe(config: Config) -> Classifier:
    """Open the network of a recipe, whose checkpoint is ``ckpt_path``."""
    compat.refuse_unsupported_versions()
    os.environ.setdefault("GLOG_v", "3")  # before MindSpore is imported: errors alone
    from mindcv_ghost.inference.classifier import Classifier
    from mindcv_ghost.run.imports import importing_without_gc

    with importing_without_gc():
        from mindcv_ghost.run.prediction import checkpoint_runtime
    return Classifier(checkpoint_runtime(config))


def _read_recipe(words: list[str]) -> Config:
    try:
        from mindcv_ghost.config import load_config
    except ModuleNotFoundError as problem:  # where only what .onnx files need is installed
        raise ConfigError(
            f"a recipe can't be read without {problem.name}: pip install 'mindcv-ghost[onnx]'"
        ) from None
    return load_config(words, script="validate")


def _classify(classifier: Classifier, names: Sequence[str], args: argparse.Namespace) -> bool:
    """Print each picture's classes as soon as its batch is done; return whether all were good."""
    from mindcv_ghost.data.sets.paths import printable

    shown = [printable(name) for name in names]
    form, all_good = _format(shown, classifier.description.class_names, args), True
    results = classifier.stream(_read(names), topk=args.topk, batch_size=args.batch_size)
    with _bar(len(names), args.batch_size) as bar, contextlib.closing(results):
        _write(form.head, bar)
        for name, result in zip(shown, results):
            if isinstance(result, DataError):
                reason = str(result).removeprefix(f"{name}: ")
                _write(f"error: {name}: {reason}", bar, sys.stderr)
                _write(form.bad(name, reason), bar)
                all_good = False
            else:
                _write(form.good(name, result), bar)
            if bar is not None:
                bar.update()
    return all_good


def _read(names: Sequence[str]) -> Iterator[Picture | DataError]:
    from mindcv_ghost.inference.pictures import STANDARD_INPUT, read_standard_input

    for name in names:
        if name != STANDARD_INPUT:
            yield name
            continue
        try:
            yield read_standard_input()
        except DataError as problem:
            yield problem


def _format(names: Sequence[str], labels: Sequence[str], args: argparse.Namespace) -> Format:
    from mindcv_ghost.inference.formats import as_csv, as_json, as_table

    if args.json:
        return as_json()
    return as_csv() if args.csv else as_table(names, labels)


@contextlib.contextmanager
def _bar(pictures: int, batch_size: int) -> Iterator[Any]:
    """Show a progress bar on a terminal; None for few pictures, elsewhere, or without tqdm."""
    if pictures <= batch_size or not sys.stderr.isatty():
        yield None
        return
    try:
        from mindcv_ghost.report.progress import make_bar

        bar = make_bar(pictures, "images")
    except ImportError:
        yield None
        return
    with contextlib.closing(bar):
        yield bar


def _write(text: str, bar: Any, file: Any = None) -> None:
    """Print lines, if any, at once; a bar on the same terminal makes room for them."""
    if not text:
        return
    file = sys.stdout if file is None else file
    with bar.external_write_mode(file) if bar is not None else contextlib.nullcontext():
        try:
            print(text, file=file, flush=True)
        except BrokenPipeError:
            raise
        except OSError as problem:
            with contextlib.suppress(OSError, ValueError):
                # What is left in the buffer would fail once more when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
            place = "standard error" if file is sys.stderr else "standard output"
            reason = problem.strerror or problem
            raise UserError(f"the results can't be written to {place}: {reason}") from None
