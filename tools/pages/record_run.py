"""Record a finished run as a result: a JSON file, its log and its metrics.

    python -m tools.pages.record_run runs/demo --out results/ghost_resnet50_digits.json

The run folder holds train.py's ``run.json`` (facts of the run and the machine), ``config.yaml``,
``metrics.csv`` and ``train.log``, and ``validate.json``, the last line of validate.py's output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
from pathlib import Path

import yaml

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.metrics import last_run, read_metrics
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import is_repeatable

__all__ = ["collect_result", "main", "record_run"]

_FACTS = ("model", "recipe", "num_classes", "parameters", "device", "ranks", "mode", "seed")
_PROVENANCE = ("versions", "commit", "date", "hardware")


def record_run(
    run_folder: str | os.PathLike, out: str | os.PathLike, *, allow_dirty: bool = False
) -> dict:
    """Write ``out`` and, beside it, the run's log and metrics.

    Args:
        run_folder: of a finished training that was validated.
        out: the JSON file, e.g. ``results/ghost_resnet50_digits.json``.
        allow_dirty: accept a run with uncommitted changes.

    Returns:
        the JSON file's content.

    Raises:
        ReportError: if a file of the run is missing, or no commit can reproduce it.
    """
    folder, out = Path(run_folder), Path(out)
    result = collect_result(folder)
    commit = result["commit"]
    if not is_repeatable(commit) and not allow_dirty:
        raise ReportError(
            f"{folder} was run from commit {commit or 'unknown'}: nobody could repeat it. Commit, "
            "run again and record that run (or give --allow_dirty)."
        )
    log = out.with_name(out.stem + "_log.txt")
    metrics = out.with_name(out.stem + "_metrics.csv")
    result["log"], result["metrics"] = log.name, metrics.name
    write_text(log, _without_local_paths(_text(folder / "train.log")))
    write_text(metrics, _text(folder / "metrics.csv"))
    write_text(out, json.dumps(result, indent=2, sort_keys=True) + "\n")
    return result


def collect_result(run_folder: str | os.PathLike) -> dict:
    """Collect a run's result from its folder.

    Args:
        run_folder: see the module's docstring.

    Raises:
        ReportError: if a file or a fact in it is missing.
    """
    folder = Path(run_folder)
    facts = read_json(folder / "run.json")
    validation = read_json(folder / "validate.json")
    config = yaml.safe_load(_text(folder / "config.yaml"))
    rows = last_run(read_metrics(folder / "metrics.csv"))
    missing = [name for name in (*_FACTS, *_PROVENANCE) if name not in facts]
    if missing:
        raise ReportError(f"{folder / 'run.json'} lacks {', '.join(missing)}")
    seconds = [row["epoch_seconds"] for row in rows if row["epoch_seconds"] is not None]
    if not seconds:
        raise ReportError(f"{folder / 'metrics.csv'} holds no finished epoch")
    if facts.get("epochs") != config.get("epoch_size"):
        raise ReportError(
            f"{folder} holds {facts.get('epochs') or 'an unfinished training of'} of "
            f"{config.get('epoch_size')} epochs: only a finished run is a result"
        )
    return {
        "kind": "run",
        **{name: facts[name] for name in (*_FACTS, *_PROVENANCE)},
        **_accuracy(validation, folder / "validate.json"),
        "dataset": config["dataset"],
        "image_size": config["image_resize"],
        "model_args": config.get("model_args") or {},
        "epochs": len(rows),
        "train_seconds_per_epoch": round(statistics.median(seconds), 2),
        "train_seconds": facts.get("seconds"),
        "compile_seconds": facts.get("compile_seconds"),
    }


def _accuracy(validation: dict, path: Path) -> dict:
    topk = [name for name in validation if re.fullmatch(r"top[2-5]", name)]
    needed = ("top1", "images", "ms_per_step", "batch_size", "ranks")
    missing = [name for name in needed if name not in validation]
    if missing or not topk:
        missing = missing or ["top5"]
        raise ReportError(f"{path} lacks {', '.join(missing)}: it is validate.py's last line")
    return {
        "top1": validation["top1"],
        "k": int(topk[0][3:]),
        "topk": validation[topk[0]],
        "images": validation["images"],
        "unreadable": validation.get("unreadable", 0),
        "infer_ms_per_step": validation["ms_per_step"],
        "infer_batch_size": validation["batch_size"],
        "infer_ranks": validation["ranks"],
    }


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReportError(
            f"no {path}: a recorded run needs run.json, config.yaml, metrics.csv and train.log "
            "from train.py, and validate.py's last line as validate.json"
        ) from None


def _without_local_paths(text: str) -> str:
    """Remove the working and the home folder from paths in the log."""
    for folder in (Path.cwd(), Path.home()):
        if len(folder.parts) > 1:
            text = text.replace(f"{folder}{os.sep}", "")
    return text


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Record a run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.pages.record_run")
    parser.add_argument("run_folder", help="ckpt_save_dir of a finished, validated run")
    parser.add_argument("--out", required=True, help="the JSON file, e.g. results/NAME.json")
    parser.add_argument(
        "--allow_dirty", action="store_true", help="accept a run with uncommitted changes"
    )
    arguments = parser.parse_args(argv)
    result = record_run(arguments.run_folder, arguments.out, allow_dirty=arguments.allow_dirty)
    print(f"{arguments.out}: top-1 {result['top1']:.2f} %; now python -m tools.pages.tables")
    return 0


if __name__ == "__main__":
    sys.exit(main())
