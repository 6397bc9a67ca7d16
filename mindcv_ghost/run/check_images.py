"""The images on which exported files are compared with their network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mindcv_ghost.config import Config
from mindcv_ghost.data import EvalLoader, FolderSource, Source
from mindcv_ghost.data.sets.paths import printable
from mindcv_ghost.errors import DataError
from mindcv_ghost.inference.description import Preprocessing
from mindcv_ghost.inference.preprocessing import preprocess, to_pixels
from mindcv_ghost.run.parts import create_augment

__all__ = ["CheckBatch", "CheckImages", "SyntheticImages", "ValidationImages"]

# At most. A batch of so few images needs little memory beside the network, and takes little time
# to make, so that an error shows soon.
_BATCH = 32
_SYNTHETIC = 8


@dataclass(frozen=True)
class CheckBatch:
    """Images, at least one, and all of them real: no padding.

    Args:
        images: what the network gets, float32 (N, C, H, W).
        labels: int (N,); None if they aren't known.
        names: of the images, for messages.
        pictures: of which the images were made, uint8 (height, width, 3); () unless asked for.
    """

    images: np.ndarray
    labels: np.ndarray | None
    names: list[str]
    pictures: tuple[np.ndarray, ...] = ()


class CheckImages(Protocol):
    """Images that can be read again and again.

    Attributes:
        count: how many.
        what: what they are, for the log.
        split: of the data set; "" for none.
    """

    count: int
    what: str
    split: str

    def batches(self, pictures: bool = False) -> Iterator[CheckBatch]:
        """Make the images, and the pictures that they are made of if these are asked for."""


class ValidationImages:
    """Images of the validation set, spread evenly over it; see :class:`CheckImages`.

    Args:
        config: the run's configuration.
        source: the validation set.
    """

    def __init__(self, config: Config, source: Source) -> None:
        wanted = config.export.verify_images or len(source)
        # As the first of `stride` ranks: every stride-th image. The classes of a folder come one
        # after another, so that the first images would be of few of them.
        stride = -(-len(source) // wanted)
        self._source = source
        self._asked = config.export.verify_images
        self._loader = EvalLoader(
            source,
            augment=create_augment(config.augment),
            batch_size=min(config.dataset.batch_size, _BATCH, wanted),
            rank=0,
            size=stride,
            workers=config.workers,
            native=config.dataset.native_loader,
            cache_mb=config.dataset.cache_images_mb,
        )
        self.count = int((self._loader.indices >= 0).sum())
        self.split = config.dataset.val_split
        part = "" if self.count == len(source) else f" of {len(source):,}"
        self.what = f"{self.count:,}{part} validation images"

    def batches(self, pictures: bool = False) -> Iterator[CheckBatch]:
        """See :class:`CheckImages`; bad images are left out where the recipe skips them.

        Raises:
            DataError: if an image can't be read and the recipe doesn't skip it, or if none can.
        """
        start, left = 0, 0
        for images, labels, valid in self._loader.batches().create_tuple_iterator(
            output_numpy=True
        ):
            indices = self._loader.indices[start : start + len(images)]
            start += len(images)
            good = np.flatnonzero(valid == 1)
            if not good.size:
                continue
            left += good.size
            kept = [int(indices[k]) for k in good]
            yield CheckBatch(
                images[good],
                labels[good],
                [printable(self._source.name_of(index)) for index in kept],
                tuple(self._picture(index) for index in kept) if pictures else (),
            )
        if not left:
            raise self._none_left()

    def _none_left(self) -> DataError:
        asked = "all" if self._asked is None else self._asked
        first = self._source.name_of(int(self._loader.indices[0]))
        return DataError(
            f"--verify_images {asked}: not one of these images ({self.what}) can be read. The "
            f"first is {printable(first)}: {self._source.bad.get(first, 'unreadable')}\n"
            "Repair or remove these files, or give a larger number, or all; 0 checks the exported "
            "files on random numbers."
        )

    def _picture(self, index: int) -> np.ndarray:
        if isinstance(self._source, FolderSource):
            return to_pixels(self._source.read(index)[0])
        return to_pixels(self._source[index][0])


class SyntheticImages:
    """Pictures of random numbers, where there is no data set; see :class:`CheckImages`.

    Args:
        preprocessing: of the network.
    """

    count, split = _SYNTHETIC, ""
    what = f"{_SYNTHETIC} synthetic images (random numbers), not on real ones"

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing

    def batches(self, pictures: bool = False) -> Iterator[CheckBatch]:
        """See :class:`CheckImages`."""
        random = np.random.default_rng(0)
        height, width = self._preprocessing.height, self._preprocessing.width
        made = tuple(
            random.integers(0, 256, (height + 8 * k, width + 40, 3), np.uint8)
            for k in range(self.count)
        )
        images = np.stack([preprocess(picture, self._preprocessing) for picture in made])
        names = [f"synthetic image {k}" for k in range(self.count)]
        yield CheckBatch(images, None, names, made if pictures else ())
