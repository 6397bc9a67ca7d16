"""The table of the weights that come with this package."""

from __future__ import annotations

from collections.abc import Sequence

from mindcv_ghost.weights import Published

__all__ = ["SHIPPED_HEAD", "shipped_rows"]

SHIPPED_HEAD = ("Model", "`--pretrained`", "Network", "Data", "Right answers", "Top-1 (%)")
SHIPPED_HEAD += ("Parameters", "File (MB)", "Recipe", "Licence")


def shipped_rows(shipped: Sequence[Published]) -> list[tuple[str, ...]]:
    """Return a row of text for each published network."""
    rows = []
    for published in shipped:
        card = published.card
        correct, images = card.accuracy["correct"], card.accuracy["images"]
        arguments = ", ".join(f"{key} {value}" for key, value in card.model_args.items())
        rows.append(
            (
                f"`{card.model}`",
                f"`{card.name}`",
                arguments or "as registered",
                str(card.data["name"]),
                f"{correct:,} of {images:,}",
                f"{100 * correct / images:.2f}",
                f"{card.parameters:,}",
                f"{published.weights.stat().st_size / 1e6:.2f}",
                f"`{card.training['recipe']}`, seed {card.training['seed']}",
                card.license,
            )
        )
    return rows
