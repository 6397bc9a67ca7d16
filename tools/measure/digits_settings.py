"""Try settings of the quick start's recipe with several seeds: results/digits_settings.json.

python -m tools.measure.digits_settings [--setting NAME ...] [--seed N ...]

Each run is the quick start's training, by mpirun with two processes. The file is written after each
run, and runs that it has aren't repeated. Processor seconds stand beside the accuracies, because
they hardly depend on what else the machine does. Commit first: a record names its code.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mindcv_ghost import compat
from mindcv_ghost.errors import tells_user_errors
from mindcv_ghost.report import ReportError
from mindcv_ghost.report.hardware import describe_hardware
from mindcv_ghost.report.json_file import read_json
from mindcv_ghost.report.metrics import read_metrics
from mindcv_ghost.storage.atomic_file import write_text
from mindcv_ghost.storage.provenance import utc_now
from tools.measure.commits import repeatable_commit

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "results" / "digits_settings.json"
RECIPE = "configs/ghostnet/ghost_resnet50_digits.yaml"
RANKS = 2


def _options(image: int, batch: int, epochs: int, lr: float, *, zero_init_last: bool) -> list[str]:
    """Return the command line for a setting; ``batch`` is that of one process."""
    warmup = 2 if batch == 32 else 1
    values = {
        "image_resize": image,
        "batch_size": batch,
        "epoch_size": epochs,
        "warmup_epochs": warmup,
        "decay_epochs": epochs - warmup,
        "lr": lr,
        "model_args": f"zero_init_last={str(zero_init_last).lower()}",
    }
    return [word for key, value in values.items() for word in (f"--{key}", str(value))]


# The first is what the recipe has.
SETTINGS = {
    "32x32, batch 64, lr 0.05, 12 epochs": _options(32, 32, 12, 0.05, zero_init_last=True),
    "10 epochs": _options(32, 32, 10, 0.05, zero_init_last=True),
    "14 epochs": _options(32, 32, 14, 0.05, zero_init_last=True),
    "14 epochs, lr 0.02, without zero_init_last": _options(32, 32, 14, 0.02, zero_init_last=False),
    "64x64, batch 32, lr 0.01, 9 epochs, without zero_init_last": _options(
        64, 16, 9, 0.01, zero_init_last=False
    ),
}


def train(options: list[str], seed: int) -> dict:
    """Train once.

    Returns:
        top-1 after each epoch in percent, the first epoch's validation loss, and the seconds that
        the processors worked.

    Raises:
        ReportError: if the training failed.
    """
    folder = Path(tempfile.mkdtemp(prefix="digits-"))
    mpirun = Path(sys.executable).with_name("mpirun")
    command = [str(mpirun if mpirun.exists() else "mpirun"), "--oversubscribe", "-n", str(RANKS)]
    command += [sys.executable, "train.py", "--config", RECIPE, "--seed", str(seed)]
    root_may = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        done = subprocess.run(
            [*command, "--ckpt_save_dir", str(folder), *options],
            cwd=ROOT,
            env={**os.environ, **root_may},
            stdout=subprocess.DEVNULL,
        )
        if done.returncode:
            raise ReportError(f"training ended with status {done.returncode}: {' '.join(options)}")
        rows = read_metrics(folder / "metrics.csv")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "top1": [round(row["top1"] or 0.0, 2) for row in rows],
        "first_val_loss": rows[0]["val_loss"],
        "cpu_seconds": round(used),
    }


@tells_user_errors
def main(argv: list[str] | None = None) -> int:
    """Train what is missing and write the file; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure.digits_settings")
    parser.add_argument("--setting", nargs="+", choices=SETTINGS, default=list(SETTINGS)[:1])
    parser.add_argument("--seed", nargs="+", type=int, default=[42, 1, 2, 3, 4])
    arguments = parser.parse_args(argv)
    commit = repeatable_commit()  # once: the file that is written belongs to the commit, too
    runs = read_json(OUT)["runs"] if OUT.exists() else []
    for setting in arguments.setting:
        for seed in arguments.seed:
            if any((run["setting"], run["seed"]) == (setting, seed) for run in runs):
                continue
            options = SETTINGS[setting]
            facts = {
                "options": options,
                "hardware": describe_hardware(),
                "versions": compat.installed_versions(),
                "commit": commit,
                "date": utc_now(),
            }
            runs.append({"setting": setting, "seed": seed, **train(options, seed), **facts})
            print(json.dumps(runs[-1]), flush=True)
            write_text(OUT, json.dumps({"kind": "digits_settings", "runs": runs}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
