"""A published network, written without training: random weights, and made-up facts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from mindcv_ghost.storage.provenance import sha256_of
from mindcv_ghost.weights.card import Card
from mindcv_ghost.weights.checksums import SUMS, sums_text

__all__ = ["make_card", "ship", "write_published"]

CONFIG = "model: ghost_resnet20_cifar\nimage_resize: 28\nmodel_args: {ratio: 3}\nlr: 0.5\n"
CONFIG += "in_channels: 1\n"


def make_card(**changes: Any) -> Card:
    """A card of Ghost-ResNet-20 with three classes of grey images."""
    facts = {
        "name": "pets",
        "model": "ghost_resnet20_cifar",
        "num_classes": 3,
        "in_channels": 1,
        "parameters": 142_000,
        "license": "CC0-1.0",
        "accuracy": {"correct": 91, "correct_top3": 100, "images": 100, "checkpoint_correct": 92},
        "data": {"name": "pets", "dataset": "folder", "val_split": "val", "train_images": 1000},
        "input": {
            **{"height": 28, "width": 28, "resize": 28, "interpolation": "bilinear"},
            **{"channels": 1, "mean": [73.0], "std": [90.0]},
        },
        "training": {
            **{"recipe": "pets.yaml", "started_from": "random weights", "seed": 0, "epochs": 15},
            **{"checkpoint": "last.ckpt", "commit": "0123456789ab", "date": "2026-11-29"},
            "hardware": "Some CPU, 2 cores",
        },
        "class_names": ("ant", "bee", "cow"),
        "model_args": {"ratio": 3},
        "dtype": "float16",
    }
    return Card(**{**facts, **changes})


def write_published(
    folder: Path, arrays: dict[str, np.ndarray] | None = None, **changes: Any
) -> str:
    """Write a folder as ``mindcv-ghost publish`` does; return the SHA-256 of its list.

    Args:
        folder: is created.
        arrays: of the network; None for an array that fits none.
        changes: of the card.
    """
    folder.mkdir(parents=True)
    arrays = {"w": np.arange(5000, dtype=np.float32)} if arrays is None else arrays
    save_file(arrays, folder / "model.safetensors", metadata={"format": "ms"})
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "card.json").write_text(make_card(**changes).to_json())
    names = sorted(path.name for path in folder.iterdir())
    (folder / SUMS).write_text(sums_text(folder, names))
    return sha256_of(folder / SUMS)


def ship(root: Path) -> None:
    """Write the list of the folders MODEL/NAME below a folder, as ``sha256sum`` does."""
    lists = [str(path.relative_to(root)) for path in root.glob(f"*/*/{SUMS}")]
    (root / SUMS).write_text(sums_text(root, lists))
