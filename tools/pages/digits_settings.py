"""The table of settings that were tried for the quick start's recipe."""

from __future__ import annotations

from statistics import median

__all__ = ["DIGITS_SETTINGS_HEAD", "digits_settings_rows"]

DIGITS_SETTINGS_HEAD = ("Setting", "Top-1 (%), a number for each seed")
DIGITS_SETTINGS_HEAD += ("Val loss after epoch 1", "Processor seconds")


def digits_settings_rows(runs: list[dict]) -> list[tuple]:
    """Return one row per setting.

    Args:
        runs: of ``results/digits_settings.json``.
    """
    rows = []
    for setting in dict.fromkeys(run["setting"] for run in runs):
        tried = [run for run in runs if run["setting"] == setting]
        losses = [run["first_val_loss"] for run in tried]
        seconds = median(run["cpu_seconds"] for run in tried)
        # The best epoch's: that is the checkpoint that is kept.
        accuracies = ", ".join(f"{max(run['top1']):.2f}" for run in tried)
        least, most = _loss(min(losses)), _loss(max(losses))
        spread = least if least == most else f"{least} to {most}"
        rows.append((setting, accuracies, spread, f"{seconds:.0f}"))
    return rows


def _loss(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
