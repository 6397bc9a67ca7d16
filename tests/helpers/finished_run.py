"""The folder of a finished run, as train.py and validate.py write it."""

from __future__ import annotations

import json
from pathlib import Path

from mindcv_ghost.report.metrics import MetricsLog

FACTS = {
    "model": "ghost_resnet50",
    "recipe": "ghost_resnet50_digits.yaml",
    "num_classes": 10,
    "parameters": 11_925_002,
    "device": "CPU",
    "ranks": 2,
    "launcher": "mpirun",
    "mode": "graph",
    "jit_level": "O0",
    "seed": 42,
    "versions": {"mindspore": "2.8.0", "mindcv": "0.3.0"},
    "commit": "0123456789ab",
    "date": "2026-11-23T10:00:00+00:00",
    "hardware": "Some CPU, 2 cores",
    "epochs": 2,
    "seconds": 312.4,
    "compile_seconds": 31.0,
}
VALIDATION = {
    "model": "ghost_resnet50",
    "top1": 98.0556,
    "top5": 100.0,
    "images": 360,
    "unreadable": 0,
    "ms_per_step": 123.456,
    "batch_size": 16,
    "ranks": 1,
}


def write_finished_run(folder: Path) -> None:
    """Write the files of a run of two epochs that was validated."""
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "validate.json").write_text(json.dumps(VALIDATION))
    (folder / "config.yaml").write_text(
        "model: ghost_resnet50\ndataset: digits\nimage_resize: 64\nepoch_size: 2\n"
    )
    (folder / "train.log").write_text("2026-11-23 10:00:00 epoch 1/2\n")
    log = MetricsLog(folder / "metrics.csv", 10)
    log.append(epoch=1, step=44, loss=1.5, top1=90.0, topk=99.0, epoch_seconds=30.0)
    log.append(epoch=2, step=88, loss=0.5, top1=98.0556, topk=100.0, epoch_seconds=34.0)
    (folder / "best.ckpt").write_bytes(b"x")
