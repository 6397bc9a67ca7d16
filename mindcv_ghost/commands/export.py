"""``mindcv-ghost export``: an ONNX or MindIR file of a checkpoint, which runs elsewhere.

mindcv-ghost export --config ghost_resnet50_ascend --data_dir DIR --ckpt_path FILE --output DIR
mindcv-ghost export --model ghostnet_100 --num_classes 1000 --ckpt_path FILE --format onnx mindir

The last line of standard output is one JSON object.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from mindcv_ghost.commands.job import read_job
from mindcv_ghost.config import Config
from mindcv_ghost.errors import CheckpointError, ConfigError, DataError
from mindcv_ghost.run.imports import importing_without_gc
from mindcv_ghost.storage.staging import folder_problem

__all__ = ["main"]


def main(argv: list[str]) -> int:
    """Export; returns the exit status: 1 if the files aren't as good as the network."""
    config, world = read_job(argv, "export")
    if world.size > 1:
        raise ConfigError(
            f"export is one process, and {world.launcher} has started {world.size}: start it "
            "without a launcher"
        )
    _check(config)

    # MindSpore takes seconds to import: only after the checks above, which report bad input.
    with importing_without_gc():
        from mindcv_ghost.export.verification import VerificationError
        from mindcv_ghost.export.web import prepare_web_page
        from mindcv_ghost.run.export import create_export, for_export, report_export
        from mindcv_ghost.run.session import open_session

    if config.export.web:
        prepare_web_page(Path(config.export.web))
    config = for_export(config)
    with open_session(config, world, writes=False) as session:
        export = create_export(config, session)
        try:
            summary = export.run()
        except VerificationError as problem:
            print(f"error: {problem}. No network was written.", file=sys.stderr)
            return 1
        report_export(summary)
    return 0


def _check(config: Config) -> None:
    """Refuse what can't work, before anything slow happens."""
    model, export = config.model, config.export
    if not model.ckpt_path and not model.pretrained:
        raise ConfigError(
            "export needs weights: give --ckpt_path FILE.ckpt (a training writes best.ckpt and "
            "last.ckpt into its run folder), or --pretrained NAME for published ones."
        )
    if model.ckpt_path:
        _check_checkpoint(model.ckpt_path)
    if model.num_classes is None and not (config.names_data and export.verify_images != 0):
        raise ConfigError(
            "without a data set the number of classes isn't known: give --num_classes N, or the "
            "recipe that the checkpoint was trained with (--config)"
        )
    missing = [name for name in ("onnx", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing and "onnx" in export.format:
        raise ConfigError(
            f"the ONNX file needs {' and '.join(missing)}: pip install 'mindcv-ghost[export]' (or "
            "--format mindir, which needs neither)"
        )
    folders = {"output": export.output, "web": export.web, "triton": export.triton}
    if export.int8_report:
        folders["int8_report"] = str(Path(export.int8_report).parent)
    for key, folder in folders.items():
        problem = folder_problem(Path(folder)) if folder else ""
        if problem:
            raise ConfigError(f"--{key} {folder}: {problem}; give another folder")
    if export.int8_report and os.path.isdir(export.int8_report):
        raise ConfigError(f"--int8_report {export.int8_report} is a folder; give a file")
    if export.int8:
        _check_calibration(export.int8)


def _check_calibration(folder: str) -> None:
    from mindcv_ghost.inference.pictures import find_pictures

    if not os.path.isdir(folder):
        raise ConfigError(f"--int8 {folder}: there is no such folder of calibration images")
    try:
        _, problems = find_pictures([folder])
    except DataError as problem:
        problems = [str(problem)]
    if problems:
        raise ConfigError(f"--int8: {'; '.join(problems)}")


def _check_checkpoint(path: str) -> None:
    try:
        is_file = Path(path).is_file()
    except OSError as problem:  # a long name, or a closed folder
        raise CheckpointError(
            f"--ckpt_path {path} can't be read: {problem.strerror or problem}"
        ) from None
    if os.path.isdir(path):
        raise CheckpointError(f"--ckpt_path {path} is a folder; give a file of weights in it")
    if not is_file:
        raise CheckpointError(f"--ckpt_path {path}: there is no such file")
