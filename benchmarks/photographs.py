"""JPEG photographs like ImageNet's (500x375, about 90 kB), made of scikit-learn's two samples."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["write_photographs"]


def write_photographs(folder: str | os.PathLike, classes: int, images_a_class: int) -> None:
    """Write ``folder/0/0.jpg`` and so on; each is another random crop."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    draw = np.random.default_rng(0)
    for label in range(classes):
        (Path(folder) / str(label)).mkdir(parents=True)
        for k in range(images_a_class):
            photograph = photographs[(label + k) % 2]
            left = int(draw.integers(0, photograph.width - 500 + 1))
            top = int(draw.integers(0, photograph.height - 375 + 1))
            crop = photograph.crop((left, top, left + 500, top + 375))
            crop.save(Path(folder) / str(label) / f"{k}.jpg", quality=96)
