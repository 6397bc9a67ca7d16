"""Summarise a run: its result, and where its files are. ``make demo`` ends with it.

python -m mindcv_ghost.report.show runs/demo
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.metrics import last_run, read_metrics
from mindcv_ghost.report.progress import format_duration

__all__ = ["describe_run", "main"]

_FILES = (
    ("learning_curve.png", "learning curve"),
    ("confusion.png", "confusion matrix"),
    ("best.ckpt", "best checkpoint"),
    ("last.ckpt", "last checkpoint"),
    ("metrics.csv", "metrics"),
    ("train.log", "log"),
    ("events", "TensorBoard events"),
    ("config.yaml", "configuration"),
)


def describe_run(run_folder: str) -> str:
    """Return the summary of a run folder, several lines.

    Args:
        run_folder: train.py's run folder; it holds ``validate.json`` if the run was validated.

    Raises:
        ReportError: if it isn't a run folder, or holds no finished epoch.
    """
    folder = Path(run_folder)
    facts = read_json(folder / "run.json")
    rows = last_run(read_metrics(folder / "metrics.csv"))
    if not rows:
        raise ReportError(f"{folder} holds no finished epoch")
    try:
        lines = [_training(facts, len(rows))]
    except (KeyError, TypeError, ValueError) as problem:
        raise ReportError(f"{folder / 'run.json'} isn't a training's: {problem!r}") from None
    validation = folder / "validate.json"
    if validation.is_file():
        try:
            lines.append(_accuracy(read_json(validation)))
        except (KeyError, TypeError, ValueError) as problem:
            raise ReportError(f"{validation} isn't a validation's: {problem!r}") from None
    width = max(len(label) for _, label in _FILES)
    for name, label in _FILES:
        if (folder / name).exists():
            lines.append(f"  {label:<{width}}  {folder / name}")
    return "\n".join(lines)


def _training(facts: dict, epochs: int) -> str:
    text = f"{facts['model']}: {facts['parameters']:,} parameters, {epochs} epochs"
    if facts.get("seconds") is None:
        return text
    ranks = facts["ranks"]
    on = f"{ranks} x {facts['device']}" if ranks > 1 else facts["device"]
    return f"{text} in {format_duration(facts['seconds'])} on {on}"


def _accuracy(validation: dict) -> str:
    parts = [f"top-1 {validation['top1']:.2f} %"]
    for name, value in validation.items():
        if re.fullmatch(r"top[2-5]", name):
            parts.append(f"top-{name[3:]} {value:.2f} %")
    return f"{', '.join(parts)} of {validation['images']:,} validation images"


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Print the summary of a run folder; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m mindcv_ghost.report.show")
    parser.add_argument("run_folder", help="ckpt_save_dir of a training")
    print(describe_run(parser.parse_args(argv).run_folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
