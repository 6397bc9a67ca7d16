"""Small photographs, and folders of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindcv_ghost.data import Source
from mindcv_ghost.data.sets.array_sets import ARRAY_SETS


def photograph(seed: int, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """Something with edges, gradients and texture, so that no two decoders agree by chance."""
    draw = np.random.default_rng(seed)
    width, height = size
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([across, down, (across * 5 % 1 + down) / 2], axis=2) * 200
    pixels[height // 4 : height // 2, width // 4 :] = draw.integers(0, 255, 3)
    pixels += draw.normal(0, 12, pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_split(root: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """``root/CLASS/000.jpg`` and so on, every image different."""
    for place, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            image = photograph(seed + 1000 * place + k)
            (root / name / f"{k:03d}.jpg").write_bytes(encoded(image, quality=85))
    return root


def class_counts(source: Source) -> tuple[int, ...]:
    """Images of each class."""
    labels = [source.label_of(k) for k in range(len(source))]
    return tuple(np.bincount(labels, minlength=source.num_classes).tolist())


@pytest.fixture
def folder(tmp_path):
    """A set of three classes: 12 training and 7 validation images."""
    make_split(tmp_path / "train", {"ant": 5, "bee": 4, "cow": 3})
    make_split(tmp_path / "val", {"ant": 3, "bee": 2, "cow": 2}, seed=10_000)
    return tmp_path


@pytest.fixture(autouse=True)
def array_sets(monkeypatch):
    """Restore what the sets are: tests write smaller ones."""
    for name, layout in ARRAY_SETS.items():
        monkeypatch.setitem(ARRAY_SETS, name, layout)
