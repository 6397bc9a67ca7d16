"""Whether an exported file computes what the network computes, image by image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["TOLERANCE", "TOLERANCE_FP16", "Comparison", "VerificationError"]

TOLERANCE = 1e-4
"""How much a logit may differ, relative to the image's largest logit."""

TOLERANCE_FP16 = 2e-2
"""The same for weights in float16, which have 11 bits."""


class VerificationError(Exception):
    """An exported file isn't good enough to be kept; the text says why."""


class Comparison:
    """Compares a file's logits with the network's.

    Both have to give each image the same class. Two classes whose logits the network itself doesn't
    tell apart, because they differ by less than the tolerance, are a tie: either is right.

    Args:
        file: its name, for messages.
        tolerance: how much a logit may differ, relative to the image's largest one.
        class_names: in the order of the logits; () where they aren't known.

    Attributes:
        images: how many were compared.
        ties: how many of them are ties that the two answer differently.
        largest: the largest difference of a logit, relative to its image's largest one.
    """

    def __init__(self, file: str, tolerance: float, class_names: Sequence[str] = ()) -> None:
        self.file, self.tolerance, self._class_names = file, tolerance, class_names
        self.images = self.ties = 0
        self.largest = 0.0

    def add(self, expected: np.ndarray, found: np.ndarray, images: Sequence[str]) -> None:
        """Compare the logits of a batch.

        Args:
            expected: the network's, (N, classes).
            found: the file's, likewise.
            images: their names, for messages.

        Raises:
            VerificationError: at the first image that differs; the message names it.
        """
        if expected.shape != found.shape:
            raise VerificationError(
                f"{self.file} answers with shape {found.shape} where the network answers with "
                f"{expected.shape}"
            )
        for own, other, image in zip(expected, found, images):
            self._add_image(own.astype(np.float64), other.astype(np.float64), image)

    def _add_image(self, expected: np.ndarray, found: np.ndarray, image: str) -> None:
        if not np.isfinite(expected).all():
            raise VerificationError(
                f"the network itself has logits that aren't finite on {image}: its weights can't "
                "be used"
            )
        largest = np.abs(expected).max() or 1.0
        difference = float(np.abs(expected - found).max() / largest)
        own, other = int(expected.argmax()), int(found.argmax())
        tie = bool(expected[own] - expected[other] <= self.tolerance * largest)
        if not difference <= self.tolerance or (own != other and not tie):  # NaN differs, too
            raise VerificationError(
                f"{self.file} doesn't compute what the network computes. The first image that "
                f"differs is {image}: the network answers {self._name(own)}, the file "
                f"{self._name(other)}; their logits differ by {difference:.1e} of the largest one "
                f"({self.tolerance:.0e} is allowed)"
            )
        self.images += 1
        self.ties += own != other
        self.largest = max(self.largest, difference)

    def _name(self, label: int) -> str:
        known = label < len(self._class_names)
        return f"class {label}" + (f" ({self._class_names[label]})" if known else "")

    def __str__(self) -> str:
        """Say the result in one line."""
        number = "1 tie" if self.ties == 1 else f"{self.ties} ties"
        ties = f" (but for {number})" if self.ties else ""
        return (
            f"{self.file}: the network's top-1 on each of {self.images:,} images{ties}, logits "
            f"differ by at most {self.largest:.1e} of the largest one"
        )
